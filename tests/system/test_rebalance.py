"""Experts move between real workers while requests run, and no bit of any answer tells."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import ray

from numoe.coordinator.settings import EngineSettings
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.expert_owners import share_experts
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.plan_file import to_toml
from numoe.protos.errors import Unavailable
from numoe.protos.locality import PAGE
from numoe.v1 import placement_pb2, placement_pb2_grpc
from numoe.worker.loading.expert_block import expert_block
from tests.coordinator.api.grpc.grpc_serving import info_of
from tests.system.clients import NOT_SERVING, SERVE_FLAGS, SERVING, SHAPE, ask, connected
from tests.system.conftest import ModelOf
from tests.system.groups import RecordedWorkers, WorkerProcesses, plan_of
from tests.system.requests import CONTEXT_TOKENS, KINDS, NEIGHBOURS, run_alone, run_together
from tests.system.serve_process import NUMOE, ServeProcess, serving
from tests.tiny_model import TinyShape, tiny_spec

MODEL = TinyShape(
    width=96, query_heads=6, kv_heads=3, experts=6, active_experts=3, expert_width=160, context_length=1024,
    type=TensorType.Q8_0,
)  # fmt: skip
ENGINE = EngineSettings(
    step_tokens=64, prefill_chunk=7, sequences=len(KINDS) + len(NEIGHBOURS), context_tokens=CONTEXT_TOKENS
)
WORKERS = 3
LEAST_MOVES, MOST_ROUNDS = 10, 20  # where cores are crowded, steps leave little to the copying


def random_moves(owners_of: RecordedWorkers, seed: int) -> Iterator[ExpertMove]:
    """Moves, replicas and replicas given up, for ever."""
    random = np.random.default_rng(seed)
    while True:
        layer = int(random.integers(MODEL.layers))
        owners = owners_of.workers.experts()[layer]
        assert owners is not None
        expert = int(random.integers(MODEL.experts))
        holders = owners.workers[expert]
        others = [worker for worker in range(WORKERS) if worker not in holders]
        source = int(random.choice(holders))
        if others and random.integers(3):
            yield ExpertMove(layer, expert, source, int(random.choice(others)), keep=bool(random.integers(2)))
        elif len(holders) > 1:
            yield ExpertMove(layer, expert, source, None)


async def test_no_bit_tells_that_experts_move(processes: WorkerProcesses, model_of: ModelOf) -> None:
    model = model_of(MODEL)
    expected = await run_alone(processes.load(model, 1, 1, ENGINE), model, ENGINE)
    owners = (share_experts([1.0] * MODEL.experts, WORKERS),) * MODEL.layers
    made = 0

    async def move_for_ever(recorded: RecordedWorkers, seed: int) -> None:
        nonlocal made
        for move in random_moves(recorded, seed):
            await asyncio.to_thread(recorded.workers.move_expert, move)
            made += 1

    for seed in range(MOST_ROUNDS):
        recorded = processes.load(model, WORKERS, 2, ENGINE, owners)
        moving = asyncio.create_task(move_for_ever(recorded, seed))
        try:
            assert await run_together(recorded, model, ENGINE) == expected
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)
        if made >= LEAST_MOVES:
            break
    assert made >= LEAST_MOVES, "too few moves to tell anything"


async def test_all_experts_can_leave_a_worker_and_come_back(processes: WorkerProcesses, model_of: ModelOf) -> None:
    model = model_of(MODEL)
    expected = await run_alone(processes.load(model, 1, 1, ENGINE), model, ENGINE)
    owners = share_experts([1.0] * MODEL.experts, 2)
    recorded = processes.load(model, 2, 1, ENGINE, (owners,) * MODEL.layers)
    for source, target in ((0, 1), (1, 0)):
        for layer in range(MODEL.layers):
            held = recorded.workers.experts()[layer]
            assert held is not None
            for expert in held.held_by(source):
                recorded.workers.move_expert(ExpertMove(layer, expert, source, target))
        assert all(not owners.held_by(source) for owners in recorded.workers.experts() if owners)
        assert recorded.workers.expert_hits().shape == (MODEL.layers, MODEL.experts)
    assert await run_alone(recorded, model, ENGINE) == expected


def layer_bytes(recorded: RecordedWorkers) -> list[int]:
    """Of all layers, by worker, as the placement tells."""
    found = [worker.locality for worker in recorded.workers.placement().workers]
    return [sum(count for layer in one.layers for count in layer.values()) for one in found if one]


async def test_what_the_placement_tells_is_what_every_page_says(processes: WorkerProcesses, model_of: ModelOf) -> None:
    model = model_of(MODEL)
    owners = (share_experts([1.0] * MODEL.experts, 2),) * MODEL.layers
    recorded = processes.load(model, 2, 1, ENGINE, owners)
    before, weights = layer_bytes(recorded), [worker.weight_bytes for worker in recorded.workers.placement().workers]
    size = expert_block(model.spec.layer_tensors[0], model.spec).bytes
    there, back = ExpertMove(0, 5, 1, 0, keep=True), ExpertMove(0, 0, 0, 1)
    for move in (there, back, ExpertMove(0, 5, 1, None), ExpertMove(1, 3, 1, 0)):
        recorded.workers.move_expert(move)
    whole_pages = size // PAGE * PAGE
    changes = [2 * size - whole_pages, size - 2 * whole_pages]  # two came to worker 0, and one left; one and two
    assert layer_bytes(recorded) == [bytes_ + change for bytes_, change in zip(before, changes, strict=True)]
    told = recorded.workers.placement().workers
    assert [worker.weight_bytes for worker in told] == [
        (bytes_ or 0) + change for bytes_, change in zip(weights, changes, strict=True)
    ]
    for worker, actor in zip(told, processes.handles, strict=False):
        seen = ray.get(actor.recount.remote())
        assert worker.locality is not None
        assert worker.locality.layers == seen.locality.layers
        assert worker.weight_bytes == seen.weight_bytes


async def test_a_move_that_was_planned_for_other_holders_is_refused(
    processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(MODEL)
    expected = await run_alone(processes.load(model, 1, 1, ENGINE), model, ENGINE)
    owners = (share_experts([1.0] * MODEL.experts, 2),) * MODEL.layers
    recorded = processes.load(model, 2, 1, ENGINE, owners)
    recorded.workers.move_expert(ExpertMove(0, 5, 1, 0, keep=True))
    now = recorded.workers.experts()
    for late in (ExpertMove(0, 5, 1, 0), ExpertMove(0, 4, 0, 1), ExpertMove(0, 4, 1, None)):
        with pytest.raises(Unavailable, match=f"^expert {late.expert} of layer 0 was moved by somebody else meanwhile"):
            recorded.workers.move_expert(late)
    assert recorded.workers.experts() == now
    assert await run_alone(recorded, model, ENGINE) == expected


@pytest.fixture(scope="module")
def server(served_model: Path) -> Iterator[ServeProcess]:
    """A service whose experts are whole."""
    spec = tiny_spec(SHAPE)
    owners = share_experts([1.0] * spec.experts, 2)
    shards = replace(plan_of(spec, 2, 1), experts=(owners,) * spec.layers)
    path = served_model.with_name("whole.toml")
    path.write_text(to_toml(shards))
    flags = SERVE_FLAGS[SERVE_FLAGS.index("--sequences") :]
    with serving(
        served_model.with_name("whole log"),
        str(served_model),
        "--address",
        "127.0.0.1:0",
        "--plan-file",
        str(path),
        *flags,
    ) as server:
        yield server


def rebalance(server: ServeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [NUMOE, "rebalance", "--address", server.address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def bytes_by_layer(worker: placement_pb2.WorkerPlacement) -> list[int]:
    """[L] on all nodes."""
    return [sum(at.bytes for at in layer.nodes) for layer in worker.locality.layers]


async def test_a_drained_worker_is_left_by_all_its_experts_and_answers_stay(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        loaded = [bytes_by_layer(worker) for worker in (await client.placement()).workers]
        before = await client.tokens(ask(20))
        done = await asyncio.to_thread(rebalance, server, "--drain", "1")
        assert done.returncode == 0, done.stderr
        half = SHAPE.layers * (SHAPE.experts // 2)
        assert done.stdout == f"{half} experts moved\n"
        placement = await client.placement()
        size = expert_block(tiny_spec(SHAPE).layer_tensors[0], tiny_spec(SHAPE)).bytes
        moved = SHAPE.experts // 2
        assert [bytes_by_layer(worker) for worker in placement.workers] == [
            [count + moved * size for count in loaded[0]],
            [count - moved * (size // PAGE * PAGE) for count in loaded[1]],  # the rest of a last page stays
        ]
        held = [{tuple(some.experts) for some in worker.experts} for worker in placement.workers]
        assert held == [{tuple(range(SHAPE.experts))}, {()}]
        assert await client.tokens(ask(20)) == before
        again = await asyncio.to_thread(rebalance, server, "--drain", "1")
        assert again.stdout == "the experts lie well as they are\n"
        back = await asyncio.to_thread(rebalance, server)
        assert back.returncode == 0, back.stderr
        assert int(back.stdout.split()[0]) > 0
        assert await client.tokens(ask(20)) == before


async def test_a_worker_that_is_not_there_cannot_be_drained(server: ServeProcess) -> None:
    done = await asyncio.to_thread(rebalance, server, "--drain", "2")
    assert done.returncode == 1
    assert "drain_worker: is 2; the workers are 0 to 1 (INVALID_ARGUMENT)" in done.stderr


async def test_the_stream_tells_of_every_move(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        stub = placement_pb2_grpc.PlacementServiceStub(client.channel)
        told = [answer async for answer in stub.Rebalance(placement_pb2.RebalanceRequest(drain_worker=0))]
    assert [answer.made for answer in told] == list(range(told[0].moves + 1))


async def test_a_worker_lost_while_experts_move_is_told_and_the_next_group_moves_them(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        tokens, pids = await client.tokens(ask(20)), await client.workers()
        before = await client.placement()
        drained = max(before.workers, key=lambda worker: len(worker.experts[0].experts)).worker
        health = client.health()
        await health.becomes(SERVING)
        os.kill(pids[drained], signal.SIGSTOP)  # so that the first move cannot end
        stub = placement_pb2_grpc.PlacementServiceStub(client.channel)
        moving = stub.Rebalance(placement_pb2.RebalanceRequest(drain_worker=drained))
        first = await moving.read()
        assert isinstance(first, placement_pb2.RebalanceResponse)
        assert first.made == 0
        os.kill(pids[drained], signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError, match="rebalance again once all are back") as lost:
            await moving.read()
        assert info_of(lost.value) == ("WORKER_LOST", "numoe")
        await health.becomes(NOT_SERVING)
        await health.becomes(SERVING)
        after = await client.placement()
        assert [worker.experts for worker in after.workers] == [worker.experts for worker in before.workers]
        assert await client.tokens(ask(20)) == tokens
        told = [answer async for answer in stub.Rebalance(placement_pb2.RebalanceRequest(drain_worker=drained))]
        assert told[-1].made == told[-1].moves > 0
        assert not any(some.experts for some in (await client.placement()).workers[drained].experts)
        assert await client.tokens(ask(20)) == tokens
