"""OperationsService: what it tells is what the snapshot says, and what it does goes through."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor

from numoe.coordinator.machine.machine_look import Host, NodeUse
from numoe.coordinator.operations import operations as module
from numoe.coordinator.operations import snapshot as parts
from numoe.v1 import operations_pb2
from numoe.v1.operations_pb2 import (
    SERVICE_STATE_SERVING,
    AbortRequestRequest,
    DrainRequest,
    GetStatusRequest,
    ListEventsRequest,
    WatchEventsRequest,
    WatchPlacementRequest,
    WatchStatusRequest,
)
from numoe.v1.placement_pb2 import WORKER_STATE_LOST, WORKER_STATE_READY, GetPlacementRequest
from tests.coordinator.api.grpc.grpc_serving import (
    SHAPE,
    ask,
    fake_workers,
    generated,
    running_server,
    until,
)
from tests.coordinator.engine.serving import Gate


@pytest.mark.parametrize(
    ("message", "data", "left_out"),
    [
        (operations_pb2.Status, parts.Snapshot, {"experts", "recent", "lately", "ever", "history", "events"}),
        (operations_pb2.ServiceStatus, parts.Service, {"loading"}),
        (operations_pb2.HostStatus, Host, set()),
        (operations_pb2.NodeStatus, NodeUse, set()),
        (operations_pb2.Finding, parts.HostFinding, set()),
        (operations_pb2.WorkerStatus, parts.WorkerNow, set()),
        (operations_pb2.FlowStatus, parts.Flow, set()),
        (operations_pb2.RequestStatus, parts.RequestNow, set()),
        (operations_pb2.MovedExperts, parts.Moved, set()),
        (operations_pb2.ExpertHolders, parts.ExpertMap, set()),
    ],
)
def test_messages_have_the_fields_of_the_data(message: type[object], data: type[object], left_out: set[str]) -> None:
    descriptor: Descriptor = message.DESCRIPTOR  # type: ignore[attr-defined]
    names = [field.name for field in fields(data)]  # type: ignore[arg-type]
    told = {field.name for field in descriptor.fields} - {"holder_bytes"}  # which says how others are packed
    assert told == set(names) - left_out


async def test_status_tells_state_workers_flow_and_requests() -> None:
    gate = Gate(number=1)
    async with running_server(fake_workers(before_collect=gate)) as running:
        reading = asyncio.create_task(generated(running, ask(request_id="mine", max_tokens=3)))
        await gate.reached.wait()
        status = (await running.operations.GetStatus(GetStatusRequest())).status
        placement = await running.placement.GetPlacement(GetPlacementRequest())
        gate.open()
        await reading
    assert (status.service.state, status.service.grpc) == (SERVICE_STATE_SERVING, running.ready.address)
    assert [worker.state for worker in status.workers] == [WORKER_STATE_READY, WORKER_STATE_LOST]
    assert [worker.pid for worker in status.workers] == [worker.pid for worker in placement.workers]
    assert (status.workers[0].weight_bytes, status.workers[0].off_node_bytes) == (1000, 100)
    assert not status.workers[0].HasField("fill")
    assert not status.workers[1].HasField("pid")
    assert (status.flow.running, status.flow.generated_tokens) == (1, 1)
    assert [(request.id, request.phase) for request in status.requests] == [("mine", "decode")]
    assert {(one.name, one.value) for one in status.configuration} >= {("address", "127.0.0.1:0"), ("sequences", "32")}
    assert status.hosts[0].nodes[0].weight_bytes == 900


async def test_the_map_comes_packed_and_then_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    async with running_server() as running:
        call: Any = running.operations.WatchPlacement(WatchPlacementRequest())
        first, second = await call.read(), await call.read()
        more = np.full((SHAPE.layers, SHAPE.experts), 300, np.int64)
        monkeypatch.setattr(running.workers, "expert_hits", lambda: more)
        while not (third := await call.read()).HasField("recent"):
            assert not third.HasField("holders")
        call.cancel()
    assert (first.layers, first.experts) == (SHAPE.layers, SHAPE.experts)
    assert first.holders.holders == bytes(SHAPE.layers * SHAPE.experts)  # split by row
    assert first.holders.holder_bytes == 1
    assert len(first.holders.expert_bytes) == SHAPE.layers
    counts = np.frombuffer(first.ever.counts, f"<u{first.ever.count_bytes}").reshape(SHAPE.layers, SHAPE.experts)
    assert (counts == 1).all()
    assert list(first.ever.shares) == [0.5, 0.5]
    assert not any(map(second.HasField, ("holders", "recent", "lately", "ever")))
    assert third.recent.count_bytes == 2
    assert (np.frombuffer(third.recent.counts, "<u2") == 299).all()


async def test_watching_goes_on_until_the_service_has_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    async with running_server() as running:
        watching = aiter(running.operations.WatchStatus(WatchStatusRequest()))
        events = aiter(running.operations.WatchEvents(WatchEventsRequest()))
        await anext(watching)
        assert [(await anext(events)).event.kind for _ in range(2)] == ["loading", "serving"]
        drained = [told async for told in running.operations.Drain(DrainRequest())]
        assert [told.open_requests for told in drained] == [0]
        states = {told.status.service.state async for told in watching}
        assert [told.event.kind async for told in events] == ["draining"]
        await running.task
    assert states <= {SERVICE_STATE_SERVING, operations_pb2.SERVICE_STATE_DRAINING}


async def test_requests_are_aborted_and_it_is_an_event() -> None:
    gate = Gate(number=1)
    async with running_server(fake_workers(before_collect=gate)) as running:
        call = running.generation.Generate(ask(request_id="mine", max_tokens=50))
        await call.read()
        await gate.reached.wait()
        aborted = await running.operations.AbortRequest(AbortRequestRequest(request_id="mine"))
        again = await running.operations.AbortRequest(AbortRequestRequest(request_id="mine"))
        gate.open()
        assert (aborted.aborted, again.aborted) == (1, 0)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _read_to_end(call)
        assert raised.value.code() is grpc.StatusCode.CANCELLED
        await until(lambda: running.busy() == (0, 0, 0))
        every = await running.operations.ListEvents(ListEventsRequest())
        later = await running.operations.ListEvents(ListEventsRequest(after_id=1))
    assert [event.kind for event in every.events] == ["loading", "serving", "request_aborted"]
    assert [event.id for event in later.events] == [2, 3]


async def test_a_worker_without_whole_experts_cannot_be_drained() -> None:
    async with running_server() as running:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in running.operations.Drain(DrainRequest(worker=1)):
                pass
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def _read_to_end(call: Any) -> None:
    while await call.read():
        pass
