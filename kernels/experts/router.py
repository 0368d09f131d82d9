"""The router of a Mixture of Experts: softmax over all experts, the A most probable, renormalised; grouping by expert.

Guarantees: a token's experts and weights depend on its own logits only. Equal probabilities go to the lower expert.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import add, max_lanes, maximum, splat, sub, sum_lanes
from numoe.kernels.cpu.functions import exp_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.matmul.column_groups import COLUMNS_OF_PANELS, add_groups, add_segments, columns_end
from numoe.kernels.records import Grouping, Ints

# Tokens per worker from which on routing a share of them is worth one more gather: one takes a thread 5 us.
ROUTED_TOKENS = 24

_LEAST_SUM = np.float32(6.103515625e-5)  # as llama.cpp: the smallest normal half float


@kernel
def choose_experts(
    chosen: NDArray[np.int32],  # [A], written: experts by falling probability
    shares: NDArray[np.float32],  # [A], written: their probabilities divided by their sum
    logits: NDArray[np.float32],  # [E rounded up to 16], overwritten
    experts: int,  # E
) -> None:
    """The A experts of one token."""
    for pad in range(experts, logits.shape[0]):
        logits[pad] = -np.inf
    address = logits.ctypes.data
    highest = splat(np.float32(-np.inf))
    for expert in range(0, experts, 16):
        highest = maximum(load_f32x16(address + 4 * expert), highest)
    largest = splat(max_lanes(highest))
    total = splat(np.float32(0.0))
    for expert in range(0, experts, 16):
        weight = exp_vector(sub(load_f32x16(address + 4 * expert), largest))
        total = add(total, weight)
        store_f32x16(address + 4 * expert, weight)
    scale = np.float32(1.0) / sum_lanes(total)
    chosen_sum = np.float32(0.0)
    for rank in range(chosen.shape[0]):
        best = 0
        for expert in range(1, experts):
            if logits[expert] > logits[best]:
                best = expert
        chosen[rank] = best
        shares[rank] = logits[best] * scale
        chosen_sum += shares[rank]
        logits[best] = -1.0
    for rank in range(chosen.shape[0]):
        shares[rank] = shares[rank] / max(chosen_sum, _LEAST_SUM)


@kernel
def share_routing(
    routed: Grouping,  # all groups of the step's tokens; segments written: those that this worker routes
    starts: Ints,  # [workers + 1], written: the first token of each worker; last all tokens, 0 if none are shared out
    groups: int,
    tokens: int,
    worker: int,
) -> None:
    """Share tokens out to the workers, whole groups, one after the other; few tokens are routed by every worker."""
    workers = starts.shape[0] - 1
    starts[workers] = 0
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
    starts[workers] = tokens
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


@kernel
def count_choices(
    counts: NDArray[np.int32],  # [E], written
    hits: NDArray[np.int64],  # [E], added to
    chosen: NDArray[np.int32],  # [T, A]
    tokens: int,
) -> None:
    """How many tokens chose each expert."""
    for expert in range(counts.shape[0]):
        counts[expert] = 0
    for token in range(tokens):
        for rank in range(chosen.shape[1]):
            counts[chosen[token, rank]] += 1
    for expert in range(counts.shape[0]):
        hits[expert] += counts[expert]


@kernel
def group_by_expert(
    grouping: Grouping,  # written
    columns: NDArray[np.int32],  # [T, A], written: the expert column of each choice
    counts: NDArray[np.int32],  # [E] choices of each expert, overwritten
    chosen: NDArray[np.int32],  # [T, A]
    tokens: int,
    owners: NDArray[np.int32],  # [E] the worker that computes each expert
    worker: int,  # this one; -1: experts are split by row, and every worker computes its rows of all
) -> None:
    """Sort the choices by expert, tokens in order; one segment per active expert that this worker computes.

    Columns are numbered over all active experts, so that every worker knows where every other's results lie.
    """
    segment, group, column = 0, 0, 0
    for expert in range(counts.shape[0]):
        count = counts[expert]
        counts[expert] = column
        if count == 0:
            continue
        following = add_groups(grouping, group, column, count)
        end = columns_end(grouping, following)
        if worker >= 0 and owners[expert] != worker:
            for index in range(column, end):
                grouping.column_group[index] = -1
        else:
            grouping.segments[segment].expert = expert
            grouping.segments[segment].first_group = group
            grouping.segments[segment].groups = following - group
            group, segment = following, segment + 1
        column = end
    grouping.used[0] = segment
    grouping.used[1] = column
    for token in range(tokens):
        for rank in range(chosen.shape[1]):
            expert = chosen[token, rank]
            columns[token, rank] = counts[expert]
            grouping.source[counts[expert]] = token
            counts[expert] += 1
    if tokens == 1:  # every expert reads the one token's own column, nothing needs packing
        for index in range(group):
            grouping.groups[index].x_column = 0
