"""When experts move by themselves."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.process.rebalancer import LEAST_TOKENS, rebalance_forever
from numoe.model.planning.expert_owners import share_experts
from numoe.protos.errors import Unavailable
from tests.coordinator.workers.holders import SPEC, Holders, whole


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


class Restarting(Holders):
    """Workers that are away for the first looks."""

    looks = 5

    def expert_hits(self) -> NDArray[np.int64]:
        if self.looks:
            self.looks -= 1
            raise Unavailable("the workers are being restarted")
        return super().expert_hits()


async def test_workers_that_are_away_for_a_while_are_rebalanced_once_they_are_back() -> None:
    workers = Restarting((share_experts([1.0] * SPEC.experts, 2),) * SPEC.layers)
    await until_moved(workers)
    assert workers.looks == 0


async def test_restarted_workers_are_rebalanced_by_what_they_count_anew() -> None:
    """Not only once they have counted more than those before."""
    workers = whole()
    workers.count(1000 * LEAST_TOKENS)
    looked = asyncio.Event()
    hits = workers.expert_hits

    def look() -> NDArray[np.int64]:
        looked.set()
        return hits()

    workers.expert_hits = look  # type: ignore[method-assign]
    task = asyncio.create_task(rebalance_forever(SPEC, workers, seconds=0.001))
    try:
        async with asyncio.timeout(20):
            while len(workers.moves) < SPEC.layers:
                await asyncio.sleep(0.001)
            made = len(workers.moves)
            workers.now = list(whole().now)
            workers.hits[:] = 0
            for _ in range(3):
                looked.clear()
                await looked.wait()
            workers.count(10 * LEAST_TOKENS)
            while len(workers.moves) == made:
                await asyncio.sleep(0.001)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
