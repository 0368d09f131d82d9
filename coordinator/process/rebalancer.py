"""Rebalances by itself, now and then, by what was counted since the last time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import structlog
from numpy.typing import NDArray

from numoe.coordinator.workers.moves import make_moves, wanted_moves
from numoe.coordinator.workers.placement import Workers
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.moves import ExpertMove
from numoe.protos.errors import NumoeError

AUTO_SECONDS = 60.0  # between two looks at the counts
LEAST_TOKENS = 1000  # fewer since the last look say little about which experts are popular

PURPOSE = "even out the workers, by itself"

Mover = Callable[[list[ExpertMove], str], AsyncIterator[object]]  # makes moves, and is told what for

_log = structlog.get_logger()


async def rebalance_forever(
    spec: ModelSpec, workers: Workers, move: Mover | None = None, seconds: float = AUTO_SECONDS
) -> None:
    """Rebalance now and then by what was counted since the last time; ends only by being cancelled.

    `move` makes moves and is told what for; without it they are made unseen.
    """
    make = move or (lambda moves, purpose: make_moves(workers, moves))
    before = np.zeros((spec.layers, spec.experts), np.int64)
    while True:
        try:
            before = await _rebalance(spec, workers, make, before)
        except NumoeError as error:  # such as that workers are being restarted
            _log.warning("rebalance_failed", error=str(error))
        await asyncio.sleep(seconds)


async def _rebalance(
    spec: ModelSpec, workers: Workers, make: Mover, before: NDArray[np.int64]
) -> NDArray[np.int64]:  # [L, E]
    """Rebalance by what was counted since `before`, if that is enough; returns what to count from the next time."""
    now = workers.expert_hits()
    if (now < before).any():  # the workers were restarted, and count from 0 again
        before = np.zeros_like(now)
    recent = now - before
    if recent[0].sum() < LEAST_TOKENS * spec.active_experts:
        return before
    moves = await asyncio.to_thread(wanted_moves, spec, workers, recent)
    async for _ in make(moves, PURPOSE):
        pass
    return now
