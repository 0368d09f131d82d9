"""When experts move by themselves, and what is refused."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.workers.moves import LEAST_TOKENS, make_moves, rebalance_forever, wanted_moves
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.errors import InvalidRequest, ServiceError
from tests.coordinator.engine.fake_executor import FakeExecutor
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape())
MACHINE = Topology((Node(0, ((0,), (1,)), 1 << 34, 1 << 34, 1 << 34, (10,), package=0),))
SHARDS = make_plan(SPEC, MACHINE, PlanOptions(workers=2)).shards


class Holders(FakeExecutor):
    """Workers that only note who holds what; the first layer's first two experts are popular."""

    def __init__(self, experts: tuple[ExpertOwners | None, ...]) -> None:
        super().__init__(range(3))
        self.now, self.faults = list(experts), 0
        self.moves: list[ExpertMove] = []
        self.hits = np.zeros((SPEC.layers, SPEC.experts), np.int64)

    def placement(self) -> Placement:
        return Placement("expert", tuple(WorkerPlacement(shard, "ready") for shard in SHARDS))

    def experts(self) -> tuple[ExpertOwners | None, ...]:
        return tuple(self.now)

    def expert_hits(self) -> NDArray[np.int64]:
        return self.hits.copy()

    def count(self, tokens: int) -> None:
        self.hits[:, 0] += tokens
        self.hits[:, 1] += tokens

    def move_expert(self, move: ExpertMove) -> None:
        if self.faults:
            self.faults -= 1
            raise ServiceError("a worker was lost")
        owners = self.now[move.layer]
        assert owners is not None
        self.now[move.layer] = move.applied(owners)
        self.moves.append(move)


def whole() -> Holders:
    return Holders((share_experts([1.0] * SPEC.experts, 2),) * SPEC.layers)


async def until_moved(workers: Holders) -> None:
    """Rebalance by itself until every layer's popular experts are apart."""
    task = asyncio.create_task(rebalance_forever(SPEC, workers, seconds=0.01))
    try:
        async with asyncio.timeout(60):
            while any(owners and owners.workers[0] == owners.workers[1] for owners in workers.now):
                workers.count(10 * LEAST_TOKENS)
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_popular_experts_are_taken_apart_without_being_asked() -> None:
    workers = whole()
    await until_moved(workers)
    assert workers.moves


async def test_a_move_that_failed_is_tried_again() -> None:
    workers = whole()
    workers.faults = 3
    await until_moved(workers)
    assert workers.faults == 0


async def test_a_few_tokens_move_nothing() -> None:
    workers = whole()
    task = asyncio.create_task(rebalance_forever(SPEC, workers, seconds=0.001))
    workers.count(LEAST_TOKENS // 4)
    await asyncio.sleep(0.2)
    assert not task.done()
    task.cancel()
    assert not workers.moves


async def test_moves_are_made_in_their_order_and_told() -> None:
    workers = whole()
    workers.count(100)
    moves = wanted_moves(SPEC, workers, workers.expert_hits())
    assert [made async for made in make_moves(workers, moves)] == list(range(len(moves) + 1))
    assert workers.moves == moves


def test_rows_of_experts_cannot_move_and_unknown_workers_not_drain() -> None:
    rows = Holders((None,) * SPEC.layers)
    with pytest.raises(InvalidRequest, match="plan: splits experts by row, there are no whole ones to move"):
        wanted_moves(SPEC, rows, rows.expert_hits())
    with pytest.raises(InvalidRequest, match="drain_worker: is 2; the workers are 0 to 1"):
        wanted_moves(SPEC, whole(), whole().expert_hits(), drained=2)
