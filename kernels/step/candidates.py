"""The candidates that top-k, top-p and min-p leave, and one draw among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.records import Record


@kernel
def _before(weights: NDArray[np.float32], ids: NDArray[np.int32], a: int, b: int) -> bool:
    """Whether candidate a is better than b: its weight is larger, or its id lower."""
    return weights[a] > weights[b] or (weights[a] == weights[b] and ids[a] < ids[b])


@kernel
def _sift_down(weights: NDArray[np.float32], ids: NDArray[np.int32], root: int, size: int) -> None:
    """Restore the heap order below `root`: a parent comes before its children."""
    while True:
        child = 2 * root + 1
        if child >= size:
            return
        if child + 1 < size and _before(weights, ids, child + 1, child):
            child += 1
        if not _before(weights, ids, child, root):
            return
        weights[root], weights[child] = weights[child], weights[root]
        ids[root], ids[child] = ids[child], ids[root]
        root = child


@kernel
def _sort_best(
    weights: NDArray[np.float32],  # [V], reordered: the best candidates end up at the end, best last
    ids: NDArray[np.int32],  # [V], reordered alike
    most: int,
    least_weight: float,
    mass_wanted: float,
) -> int:
    """Take candidates off a heap, best first, until `most` or the mass is reached or weights fall below the least."""
    size = weights.shape[0]
    for root in range(size // 2 - 1, -1, -1):
        _sift_down(weights, ids, root, size)
    kept, mass = 0, 0.0
    while kept < most and (kept == 0 or (weights[0] >= least_weight and mass < mass_wanted)):
        size -= 1
        mass += weights[0]
        kept += 1
        weights[0], weights[size] = weights[size], weights[0]
        ids[0], ids[size] = ids[size], ids[0]
        _sift_down(weights, ids, 0, size)
    return kept


@kernel
def draw_filtered(
    weights: NDArray[np.float32],  # [V] probabilities over the largest, reordered
    ids: NDArray[np.int32],  # [V], reordered
    sample: Record,
    total: float,
    random: float,
) -> int:
    """Apply top-k, then top-p to what is left, then min-p; one draw among the rest."""
    vocabulary = weights.shape[0]
    if 0 < sample.top_k < vocabulary:  # top-p is relative to what top-k leaves, so its sum comes first
        kept = _sort_best(weights, ids, sample.top_k, 0.0, np.inf)
        total = 0.0
        for rank in range(kept):
            total += weights[vocabulary - 1 - rank]
        most, mass, wanted = kept, 0.0, sample.top_p * total if sample.top_p < 1.0 else np.inf
        kept = 0
        while kept < most and (kept == 0 or (weights[vocabulary - 1 - kept] >= sample.min_p and mass < wanted)):
            mass += weights[vocabulary - 1 - kept]
            kept += 1
    else:
        wanted = sample.top_p * total if sample.top_p < 1.0 else np.inf
        kept = _sort_best(weights, ids, vocabulary, sample.min_p, wanted)
    mass = 0.0
    for rank in range(kept):
        mass += weights[vocabulary - 1 - rank]
    goal, mass = random * mass, 0.0
    for rank in range(kept):
        mass += weights[vocabulary - 1 - rank]
        if mass > goal:
            return ids[vocabulary - 1 - rank]
    return ids[vocabulary - kept]
