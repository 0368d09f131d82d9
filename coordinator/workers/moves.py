"""Decides from what workers counted which experts are to change workers, and has them moved while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.workers.placement import Workers
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.moves import ExpertMove, balance, drain, shares_of
from numoe.model.planning.plan_size import whole_expert_bytes
from numoe.protos.errors import InvalidRequest, PlanError

# A move waits for a step's end. One thread for what clients ask for, of which there is one at a time, one for what
# `--rebalance auto` does: those that render and encode prompts are not kept by it.
_THREADS = ThreadPoolExecutor(2, "numoe-moves")
RESERVE_BYTES = 1 << 30  # of every node, for all else that lives there


def wanted_moves(
    spec: ModelSpec, workers: Workers, hits: NDArray[np.int64], drained: int | None = None
) -> list[ExpertMove]:
    """Moves that even out what `hits` [L, E] would load the workers with, or that empty the worker `drained`.

    Raises:
        InvalidRequest: there is no such worker.
        PlanError: no layer has whole experts, or the others have no room for the drained worker's.
    """
    experts, placed = workers.experts(), workers.placement().workers
    if not any(experts):
        raise PlanError("experts are split by row, there are no whole ones to move; serve with --split expert")
    if any(worker.host for worker in placed):
        raise PlanError("experts move between the workers of one host, and this model is served on several")
    if drained is not None and not drained < len(placed):
        raise InvalidRequest("drain_worker", f"is {drained}; the workers are 0 to {len(placed) - 1}")
    topology, nodes = read_topology(), [worker.shard.node for worker in placed]
    room = [max(0, topology.node(node).available_bytes - RESERVE_BYTES) // nodes.count(node) for node in nodes]
    sizes = [whole_expert_bytes(tensors) for tensors in spec.layer_tensors]
    if drained is None:
        return balance(experts, hits.tolist(), sizes, room, shares_of([worker.shard for worker in placed]))
    return drain(drained, experts, hits.tolist(), sizes, room)


async def make_moves(workers: Workers, moves: list[ExpertMove]) -> AsyncIterator[int]:
    """Make them one after the other; yields how many are made, from 0 on. Ending it early leaves a sound service."""
    yield 0
    for number, move in enumerate(moves, 1):
        await asyncio.get_running_loop().run_in_executor(_THREADS, workers.move_expert, move)
        yield number
