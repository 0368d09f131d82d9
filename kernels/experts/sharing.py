"""Which worker routes which tokens, and, where experts are whole, which worker computes which active expert."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.column_groups import add_segments
from numoe.kernels.records import Grouping, Ints

# Tokens per worker from which on routing a share of them is worth one more gather: one takes a thread 5 us.
ROUTED_TOKENS = 24
SHARED_TOKENS = -1  # in the starts: the end of the last worker's tokens; 0 if every worker routes all of them

# An expert's panels, read once, take as long as so many columns of it: 23 GB/s of a core against 600 GOP/s.
COLUMNS_OF_PANELS = 13


@kernel
def share_routing(
    routed: Grouping,  # all groups of the step's tokens; segments written: those that this worker routes
    starts: Ints,  # [workers + 1], written: the first token of each worker, and SHARED_TOKENS
    groups: int,
    tokens: int,
    worker: int,
) -> None:
    """Share tokens out to the workers, in whole groups, one after the other; few tokens are routed by every worker."""
    workers = starts.shape[0] - 1
    starts[SHARED_TOKENS] = 0
    if workers == 1 or tokens < ROUTED_TOKENS * workers:
        add_segments(routed, 0, groups)
        return
    first, last = 0, groups
    for other in range(workers):
        group = routed.column_group[tokens * other // workers]
        starts[other] = routed.groups[group].column
        if other == worker:
            first = group
        elif other == worker + 1:
            last = group
    starts[SHARED_TOKENS] = tokens
    add_segments(routed, first, last)


@kernel
def assign_experts(
    owners: NDArray[np.int32],  # [E], written: the worker that computes each active expert
    loads: NDArray[np.int32],  # [workers], written: what each was given
    counts: NDArray[np.int32],  # [E] choices of each expert
    holders: NDArray[np.int32],  # [E] a bit per worker that holds it
) -> None:
    """Give each active expert to the holder that would finish it first; every worker finds the same owners.

    Experts with one holder come first, then the others by falling count, each to the least loaded of its holders.
    """
    workers, left = loads.shape[0], 0
    for worker in range(workers):
        loads[worker] = 0
    for expert in range(counts.shape[0]):
        owners[expert] = -1
        if counts[expert] == 0:
            continue
        mask = holders[expert]
        if mask & (mask - 1) != 0:
            left += 1
            continue
        for worker in range(workers):
            if mask >> worker & 1:
                owners[expert] = worker
                loads[worker] += COLUMNS_OF_PANELS + counts[expert]
    for _ in range(left):
        heaviest = -1
        for expert in range(counts.shape[0]):
            if owners[expert] < 0 and counts[expert] > 0 and (heaviest < 0 or counts[expert] > counts[heaviest]):
                heaviest = expert
        best = -1
        for worker in range(workers):
            if holders[heaviest] >> worker & 1 and (best < 0 or loads[worker] < loads[best]):
                best = worker
        owners[heaviest] = best
        loads[best] += COLUMNS_OF_PANELS + counts[heaviest]
