"""Rebalances by itself, now and then, by what was counted since the last time."""

from __future__ import annotations

import asyncio

import numpy as np
import structlog

from numoe.coordinator.workers.moves import make_moves, wanted_moves
from numoe.coordinator.workers.placement import Workers
from numoe.model.architectures.spec import ModelSpec
from numoe.protos.errors import NumoeError

AUTO_SECONDS = 60.0  # between two looks at the counts
LEAST_TOKENS = 1000  # fewer since the last look say little about which experts are popular

_log = structlog.get_logger()


async def rebalance_forever(spec: ModelSpec, workers: Workers, seconds: float = AUTO_SECONDS) -> None:
    """Rebalance now and then by what was counted since the last time; ends only by being cancelled."""
    before = workers.expert_hits()
    while True:
        await asyncio.sleep(seconds)
        now = workers.expert_hits()
        recent = np.maximum(now - before, 0)  # restarted workers count from 0
        if recent[0].sum() < LEAST_TOKENS * spec.active_experts:
            continue
        before = now
        try:
            moves = await asyncio.to_thread(wanted_moves, spec, workers, recent)
            async for _ in make_moves(workers, moves):
                pass
        except NumoeError as error:
            _log.warning("rebalance_failed", error=str(error))
        else:
            if moves:
                _log.info("rebalanced", moves=len(moves))
