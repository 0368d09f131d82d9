"""The choices of a step's tokens, counted and grouped by expert."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.experts.router import NOT_RUN
from numoe.kernels.matmul.column_groups import add_groups, columns_end
from numoe.kernels.records import Grouping


@kernel
def count_choices(
    counts: NDArray[np.int32],  # [E], written
    hits: NDArray[np.int64],  # [E], added to
    chosen: NDArray[np.int32],  # [T, A]
    tokens: int,
) -> None:
    """Count how many tokens chose each expert."""
    for expert in range(counts.shape[0]):
        counts[expert] = 0
    for token in range(tokens):
        for rank in range(chosen.shape[1]):
            if chosen[token, rank] == NOT_RUN:
                break
            counts[chosen[token, rank]] += 1
    for expert in range(counts.shape[0]):
        hits[expert] += counts[expert]


@kernel
def count_run(
    run: NDArray[np.int64],  # [S], added to
    token_sequence: NDArray[np.int32],  # [T] the sequence of each token
    chosen: NDArray[np.int32],  # [T, A]
    tokens: int,
) -> None:
    """Count how many experts each sequence's tokens chose."""
    for token in range(tokens):
        for rank in range(chosen.shape[1]):
            if chosen[token, rank] == NOT_RUN:
                break
            run[token_sequence[token]] += 1


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
            if expert == NOT_RUN:
                break
            columns[token, rank] = counts[expert]
            grouping.source[counts[expert]] = token
            counts[expert] += 1
    if tokens == 1:  # every expert reads the one token's own column, nothing needs packing
        for index in range(group):
            grouping.groups[index].x_column = 0
