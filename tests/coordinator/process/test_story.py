"""The log and the events that operators see tell one story of a service's life, each part of it once."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import pytest
from structlog.testing import capture_logs

from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.engine.event_log import EventKind
from numoe.coordinator.progress import LoadProgress
from numoe.protos.errors import SetupError, WorkerLost
from numoe.protos.messages import Step
from numoe.v1.operations_pb2 import AbortRequestRequest
from tests.coordinator.api.grpc.grpc_serving import ask, fake_workers, generated, read_all, running_server, until
from tests.coordinator.engine.serving import Gate
from tests.log_lines import Line, captured

LIFE = ("loading", "serving")
LOST = ("worker_lost", "workers_restarting", "start_refused", "workers_restarting", "workers_restarted")


def told(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """What of the log is of the service's life."""
    return [(line["event"], line["text"]) for line in lines if line["event"] in set(EventKind)]


async def test_a_life_with_a_loss_a_failed_restart_and_an_abort() -> None:
    gate = Gate(30)
    failures = [WorkerLost("worker 1 died again")]

    def lose(step: Step) -> None:
        gate(step)
        if step.number == 1:
            raise WorkerLost("worker 1 died")

    def restart() -> None:
        if failures:
            raise failures.pop()

    with capture_logs() as logged:
        async with running_server(fake_workers(before_collect=lose, before_restart=restart)) as running:
            assert (await generated(running, ask(request_id="resumed"))).finished
            await until(lambda: running.coordinator.operations().state == "serving")
            call = running.generation.Generate(ask(max_tokens=50, request_id="aborted"))
            await gate.reached.wait()
            await running.operations.AbortRequest(AbortRequestRequest(request_id="aborted"))
            gate.open()
            with pytest.raises(grpc.aio.AioRpcError):
                await read_all(call)
            await until(lambda: running.busy() == (0, 0, 0))
        events = running.coordinator.operations().events.after()
    lines = captured(logged)
    assert [event.kind for event in events] == [*LIFE, *LOST, "request_aborted", "draining", "stopped"]
    assert told(lines) == [(event.kind, event.text) for event in events]
    # All else that such a life says: a line for each request, and one for each other call.
    assert {line["event"] for line in lines} - set(EventKind) == {"request_ended", "call"}
    assert {line["request"]: line["outcome"] for line in lines if line["event"] == "request_ended"} == {
        "resumed": "length",
        "aborted": "aborted",
    }


async def test_a_life_that_ends_badly() -> None:
    def lose(step: Step) -> None:
        raise RuntimeError("a defect")

    with capture_logs() as logged:
        async with running_server(fake_workers(before_collect=lose)) as running:
            with pytest.raises(grpc.aio.AioRpcError):
                await generated(running, ask())
            with pytest.raises(Exception, match="internal error in the engine"):
                await running.task
        events = running.coordinator.operations().events.after()
    lines = captured(logged)
    assert [event.kind for event in events] == [*LIFE, "engine_failed", "draining", "stopped"]
    assert told(lines) == [(event.kind, event.text) for event in events]
    [failed] = [line for line in lines if line["event"] == "engine_failed"]
    assert "exception" in failed
    assert "RuntimeError" in lines[-1]["error"]
    assert (lines[-1]["event"], lines[-1]["level"]) == ("stopped", "error")


async def test_a_set_up_that_is_refused_at_once_is_no_life_and_one_refused_later_a_short_one() -> None:
    for phases, expected in (((), []), (("starting",), ["loading", "stopped"])):

        def load(report: LoadProgress, phases: tuple[str, ...] = phases) -> ServedModel:
            for phase in phases:
                report(phase, 0, 0)
            raise SetupError("no such file")

        with capture_logs() as logged, pytest.raises(SetupError):
            async with running_server(load=load):
                pass
        lines = captured(logged)
        assert [line["event"] for line in lines] == expected
        assert [line["error"] for line in lines[1:]] == ["no such file"] * len(phases)
