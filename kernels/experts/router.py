"""The router of a Mixture of Experts: softmax over all experts, the A most probable or fewer of them, renormalised.

Fewer are *smart expert reduction* (ik_llama.cpp's -ser): the `fewest` most probable are always run, of the others those
that are at least `threshold` times as probable as the first. A threshold of 0 keeps all A.

A logit comes as PARTS sums, each over a part of the inputs, which are added in order: a router has few panels, so that
many threads could not share them out.

Guarantees: a token's experts and weights depend on its own logits and its request's setting only. Equal probabilities
go to the lower expert. Logits that are no numbers choose different experts too, and make all their weights NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import add, max_lanes, maximum, splat, sub, sum_lanes
from numoe.kernels.cpu.functions import exp_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16

NOT_RUN = -1  # instead of an expert
PARTS = 4  # of the inputs of Qwen3-235B's router: a panel of 64 KB, as others are
_LEAST_SUM = np.float32(6.103515625e-5)  # as llama.cpp: the smallest normal half float


@kernel
def choose_experts(
    chosen: NDArray[np.int32],  # [A], written: experts by falling probability, then NOT_RUN
    shares: NDArray[np.float32],  # [A], written: their probabilities divided by their sum, then 0
    logits: NDArray[np.float32],  # [PARTS, E rounded up to 16] to be added, overwritten
    experts: int,  # E
    fewest: int,  # experts that are run whatever their probabilities
    threshold: np.float32,  # of the largest probability, below which no further ones are
) -> None:
    """Choose the experts of one token, at most A."""
    address, row_bytes = logits.ctypes.data, 4 * logits.shape[1]
    for expert in range(0, experts, 16):
        logit = load_f32x16(address + 4 * expert)
        for part in range(1, PARTS):
            logit = add(logit, load_f32x16(address + row_bytes * part + 4 * expert))
        store_f32x16(address + 4 * expert, logit)
    weights = logits[0]
    for pad in range(experts, logits.shape[1]):
        weights[pad] = -np.inf
    highest = splat(np.float32(-np.inf))
    for expert in range(0, experts, 16):
        highest = maximum(load_f32x16(address + 4 * expert), highest)
    largest = splat(max_lanes(highest))
    total = splat(np.float32(0.0))
    for expert in range(0, experts, 16):
        weight = exp_vector(sub(load_f32x16(address + 4 * expert), largest))
        total = add(total, weight)
        store_f32x16(address + 4 * expert, maximum(weight, splat(np.float32(0.0))))  # 0 where it is no number
    scale = np.float32(1.0) / sum_lanes(total)
    chosen_sum, kept = np.float32(0.0), 0
    for rank in range(chosen.shape[0]):
        best = 0
        for expert in range(1, experts):
            if weights[expert] > weights[best]:
                best = expert
        probability = weights[best] * scale
        if rank >= fewest and probability < threshold * shares[0]:  # not for NaN: its weights must show
            break
        chosen[rank] = best
        shares[rank] = probability
        chosen_sum += probability
        weights[best] = -1.0
        kept += 1
    for rank in range(kept):
        shares[rank] = shares[rank] / max(chosen_sum, _LEAST_SUM)
    for rank in range(kept, chosen.shape[0]):
        chosen[rank] = NOT_RUN
        shares[rank] = 0.0
