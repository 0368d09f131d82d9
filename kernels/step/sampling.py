"""Drawing a token from a row of logits.

Order: penalties, temperature, top-k, top-p, min-p, one draw. Temperature 0 takes the largest logit, the lowest id among
equals. The draw depends only on the logits, the parameters and (seed, position): splitmix64 of the two gives 53 random
bits. A sample is a record with the fields of Sampling in protos/messages.py, `position` of the token to be drawn, and
the range `first_seen`, `seen` of the tokens that penalties apply to. Candidates are better by their logit, then by a
lower id; sums run in the order of ids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import (
    MOST_F32,
    add,
    div,
    fma,
    lane_numbers,
    max_lanes,
    maximum,
    splat,
    sub,
    sum_lanes,
    where_less,
)
from numoe.kernels.cpu.functions import exp_vector, log
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.records import Record
from numoe.kernels.step.candidates import draw_filtered

PADDING = np.float32(-MOST_F32)  # as good as impossible, yet finite: what is not finite is then a fault
NOT_DRAWN = -1  # instead of a token id, where logits are not finite; as in protos/messages.py


@kernel
def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from two 64-bit numbers (splitmix64, Steele et al. 2014, applied twice).

    The seed is mixed before the position comes in: together at once, seeds 0 to 63 would have the same numbers in turn.
    """
    value = np.uint64(seed)
    for word in (np.uint64(0), np.uint64(position)):
        value = value ^ word
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return np.float64(value >> np.uint64(11)) * 2.0**-53


@kernel
def log_sum_exp(logits: NDArray[np.float32]) -> float:
    """Compute log(sum(exp(logits))), NaN if one of them is not finite; the length is a multiple of 16 with PADDING."""
    address, zero = logits.ctypes.data, splat(np.float32(0.0))
    highest, none = splat(np.float32(-np.inf)), zero
    for value in range(0, logits.shape[0], 16):
        x = load_f32x16(address + 4 * value)
        highest, none = maximum(x, highest), fma(x, zero, none)  # 0 times anything finite is 0, else NaN
    largest = max_lanes(highest)
    if sum_lanes(none) != 0:
        return largest + np.float32(np.nan)
    total = splat(np.float32(0.0))
    for value in range(0, logits.shape[0], 16):
        total = add(total, exp_vector(sub(load_f32x16(address + 4 * value), splat(largest))))
    return largest + np.float32(log(np.float64(sum_lanes(total))))


@kernel
def penalise(
    logits: NDArray[np.float32],  # [V], changed in place
    sample: Record,
    seen_tokens: NDArray[np.int32],
    seen_counts: NDArray[np.int32],  # times generated; 0: only in the prompt
) -> None:
    """Penalise repetition (Keskar et al. 2019) of all tokens seen, frequency and presence of generated ones."""
    for index in range(sample.first_seen, sample.first_seen + sample.seen):
        token, count = seen_tokens[index], seen_counts[index]
        value = logits[token]
        value = value / sample.repetition_penalty if value > 0 else value * sample.repetition_penalty
        if count > 0:
            value = value - np.float32(count) * sample.frequency_penalty - sample.presence_penalty
        logits[token] = value


@kernel
def _most_likely(logits: NDArray[np.float32]) -> int:
    """The lowest id of the largest logit; the length is a multiple of 16 with PADDING.

    Ids are held as floats, which are exact to 2**24.
    """
    address, ids = logits.ctypes.data, lane_numbers()
    best, best_ids = splat(np.float32(-np.inf)), splat(np.float32(0.0))
    for token in range(0, logits.shape[0], 16):
        x = load_f32x16(address + 4 * token)
        best_ids = where_less(best, x, add(ids, splat(np.float32(token))), best_ids)
        best = where_less(best, x, x, best)
    others = splat(np.float32(2.0**24))
    ids = where_less(best, splat(max_lanes(best)), others, best_ids)
    return int(-max_lanes(sub(splat(np.float32(0.0)), ids)))


@kernel
def draw(
    logits: NDArray[np.float32],  # [V rounded up to 16, with PADDING], changed in place
    buckets: NDArray[np.float64],  # [2, BUCKETS] scratch
    sample: Record,
    vocabulary: int,  # V
) -> int:
    """Draw one token id, NOT_DRAWN if penalties left no largest logit that is finite; before them all must be."""
    best = _most_likely(logits)
    if best >= vocabulary or not abs(logits[best]) < np.inf:
        return NOT_DRAWN
    if sample.temperature <= 0:
        return best
    address, largest = logits.ctypes.data, splat(logits[best])
    temperature = splat(sample.temperature)
    for token in range(0, logits.shape[0], 16):
        place = address + 4 * token
        store_f32x16(place, exp_vector(div(sub(load_f32x16(place), largest), temperature)))
    total = 0.0
    for token in range(vocabulary):
        total += logits[token]
    random = uniform(sample.seed, sample.position)
    if sample.top_k > 0 or sample.top_p < 1.0 or sample.min_p > 0:
        return draw_filtered(logits[:vocabulary], buckets, sample, total, random, best)
    goal, mass = random * total, 0.0
    for token in range(vocabulary):
        mass += logits[token]
        if mass > goal:
            return token
    return best
