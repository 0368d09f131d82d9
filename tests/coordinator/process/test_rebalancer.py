"""When experts move by themselves."""

from __future__ import annotations

import asyncio

from numoe.coordinator.process.rebalancer import LEAST_TOKENS, rebalance_forever
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
