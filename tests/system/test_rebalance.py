"""Experts move between real workers while requests run, and no bit of any answer tells."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numoe.coordinator.config import EngineSettings
from numoe.model.expert_owners import share_experts
from numoe.model.plan_file import to_toml
from numoe.model.rebalance import ExpertMove
from numoe.model.spec import TensorType
from numoe.v1 import placement_pb2, placement_pb2_grpc
from tests.system.clients import SERVE_FLAGS, SHAPE, ask, connected
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
    recorded = processes.load(model, WORKERS, 2, ENGINE, owners)
    made = 0

    async def move_for_ever() -> None:
        nonlocal made
        for move in random_moves(recorded, seed=1):
            await asyncio.to_thread(recorded.workers.move_expert, move)
            made += 1

    moving = asyncio.create_task(move_for_ever())
    try:
        assert await run_together(recorded, model, ENGINE) == expected
    finally:
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
    assert made >= 10, "too few moves to tell anything"
    assert recorded.workers.experts() != owners


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


async def test_a_drained_worker_is_left_by_all_its_experts_and_answers_stay(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        before = await client.tokens(ask(20))
        done = await asyncio.to_thread(rebalance, server, "--drain", "1")
        assert done.returncode == 0, done.stderr
        half = SHAPE.layers * (SHAPE.experts // 2)
        assert done.stdout == f"{half} experts moved\n"
        placement = await placement_pb2_grpc.PlacementServiceStub(client.channel).GetPlacement(
            placement_pb2.GetPlacementRequest()
        )
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
