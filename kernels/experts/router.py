"""The router of a Mixture of Experts: softmax over all experts, the A most probable, renormalised.

Guarantees: a token's experts and weights depend on its own logits only. Equal probabilities go to the lower expert.
Logits that are no numbers choose different experts too, and make all their weights NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import add, max_lanes, maximum, splat, sub, sum_lanes
from numoe.kernels.cpu.functions import exp_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16

_LEAST_SUM = np.float32(6.103515625e-5)  # as llama.cpp: the smallest normal half float


@kernel
def choose_experts(
    chosen: NDArray[np.int32],  # [A], written: experts by falling probability
    shares: NDArray[np.float32],  # [A], written: their probabilities divided by their sum
    logits: NDArray[np.float32],  # [E rounded up to 16], overwritten
    experts: int,  # E
) -> None:
    """Choose the A experts of one token."""
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
        store_f32x16(address + 4 * expert, maximum(weight, splat(np.float32(0.0))))  # 0 where it is no number
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
