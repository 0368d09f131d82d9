"""Drawing a token from a row of logits.

Order: biases, penalties, repeats, what is allowed, top-n-sigma, temperature, top-k, typical-p, top-p, min-p, XTC, one
draw; `temperature_last` has the temperature come behind XTC, as in llama.cpp. Temperature 0 takes the largest logit,
the lowest id among equals, and no filter counts. The draw depends only on the logits, the parameters and (seed,
position): splitmix64 of the two gives 53 random bits. A sample is a record with the fields of Sampling in
protos/messages.py, `position` of the token to be drawn, and the range `first_seen`, `seen` of the tokens that penalties
apply to. Candidates are better by their logit, then by a lower id; sums are of 16 lanes first, see candidates.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import (
    MOST_F32,
    add,
    fma,
    max_lanes,
    maximum,
    splat,
    sub,
    sum_lanes,
    where_bits,
    where_less,
)
from numoe.kernels.cpu.functions import exp_vector, log
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.records import TOGETHER, Record
from numoe.kernels.step.candidates import draw_weighed
from numoe.kernels.step.filters import draw_filtered
from numoe.kernels.step.worst import DrawMemory

PADDING = np.float32(-MOST_F32)  # as good as impossible, yet finite: what is not finite is then a fault
NOT_DRAWN = -1  # instead of a token id, where logits are not finite; as in protos/messages.py
_OF_XTC = np.uint64(0xA0761D6478BD642F)  # tells the seed of its chance from that of the draw
_FOLDED = 8  # groups whose numbers are added up by lanes


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
def group_maximum(logits: NDArray[np.float32], group: int) -> np.float32:
    """The largest logit of a group."""
    highest = splat(np.float32(-np.inf))
    for value in range(group * TOGETHER, (group + 1) * TOGETHER, 16):
        highest = maximum(load_f32x16(logits.ctypes.data + 4 * value), highest)
    return max_lanes(highest)


@kernel
def log_sum_exp(
    logits: NDArray[np.float32],  # [V rounded up to TOGETHER, with PADDING]
    maxima: NDArray[np.float32],  # [V / TOGETHER rounded up to 16] written: the largest logit of each group
) -> float:
    """Compute log(sum(exp(logits))), NaN if one of them is not finite."""
    address, zero = logits.ctypes.data, splat(np.float32(0.0))
    none, largest = zero, np.float32(-np.inf)
    maxima[:] = PADDING
    for group in range(logits.shape[0] // TOGETHER):
        highest = splat(np.float32(-np.inf))
        for value in range(group * TOGETHER, (group + 1) * TOGETHER, 16):
            x = load_f32x16(address + 4 * value)
            highest, none = maximum(x, highest), fma(x, zero, none)  # 0 times anything finite is 0, else NaN
        maxima[group] = max_lanes(highest)
        largest = max(largest, maxima[group])
    if sum_lanes(none) != 0:
        return float(largest + np.float32(np.nan))
    total = zero
    for value in range(0, logits.shape[0], 16):
        total = add(total, exp_vector(sub(load_f32x16(address + 4 * value), splat(largest))))
    return float(largest + np.float32(log(np.float64(sum_lanes(total)))))


@kernel
def add_biases(
    logits: NDArray[np.float32],  # [V rounded up to TOGETHER], changed in place
    bias_tokens: NDArray[np.int32],
    bias_values: NDArray[np.float32],  # finite, or -infinity for what may not be drawn
    first: int,
    count: int,
    maxima: NDArray[np.float32],  # of the logits' groups, changed in place
) -> None:
    """Add a range of biases to their tokens' logits."""
    for index in range(first, first + count):
        token = bias_tokens[index]
        logits[token] += bias_values[index]
        maxima[token // TOGETHER] = group_maximum(logits, token // TOGETHER)


@kernel
def allow_only(
    logits: NDArray[np.float32],  # [V rounded up to TOGETHER], changed in place
    allowed: NDArray[np.uint32],  # [the same / 32] a bit for each token
    maxima: NDArray[np.float32],  # of the logits' groups, changed in place
) -> None:
    """Make all other tokens impossible: 60 us for 151,936 on a Zen 3 core."""
    address, none = logits.ctypes.data, splat(np.float32(-np.inf))
    for group in range(logits.shape[0] // TOGETHER):
        highest = none
        for token in range(group * TOGETHER, (group + 1) * TOGETHER, 16):
            bits = np.uint64(allowed[token // 32]) >> np.uint64(token % 32)
            x = where_bits(bits, load_f32x16(address + 4 * token), none)
            store_f32x16(address + 4 * token, x)
            highest = maximum(x, highest)
        maxima[group] = max_lanes(highest)


@kernel
def penalise(
    logits: NDArray[np.float32],  # [V rounded up to TOGETHER], changed in place
    sample: Record,
    seen_tokens: NDArray[np.int32],
    seen_counts: NDArray[np.int32],  # times generated; 0: only in the prompt
    maxima: NDArray[np.float32],  # of the logits' groups, changed in place
) -> None:
    """Penalise repetition (Keskar et al. 2019) of all tokens seen, frequency and presence of generated ones."""
    for index in range(sample.first_seen, sample.first_seen + sample.seen):
        token, count = seen_tokens[index], seen_counts[index]
        value = logits[token]
        value = value / sample.repetition_penalty if value > 0 else value * sample.repetition_penalty
        if count > 0:
            value = value - np.float32(count) * sample.frequency_penalty - sample.presence_penalty
        logits[token] = value
        maxima[token // TOGETHER] = group_maximum(logits, token // TOGETHER)


@kernel
def keep_sigmas(
    logits: NDArray[np.float32],  # [V rounded up to TOGETHER], changed in place
    maxima: NDArray[np.float32],  # of the logits' groups, changed in place
    largest: np.float32,
    sigmas: float,
) -> None:
    """Make impossible what lies more than so many standard deviations below the largest logit (Tang et al. 2024).

    The deviation is of what is possible: padding and minus infinity do not count.
    """
    address, zero, one, padding = logits.ctypes.data, splat(np.float32(0.0)), splat(np.float32(1.0)), splat(PADDING)
    count, total, squares, highest = zero, 0.0, 0.0, splat(largest)
    for first in range(0, logits.shape[0], TOGETHER * _FOLDED):
        sums, squared = zero, zero
        for token in range(first, min(first + TOGETHER * _FOLDED, logits.shape[0]), 16):
            x = load_f32x16(address + 4 * token)
            below = where_less(padding, x, sub(x, highest), zero)
            count = add(count, where_less(padding, x, one, zero))
            sums, squared = add(sums, below), fma(below, below, squared)
        total, squares = total + sum_lanes(sums), squares + sum_lanes(squared)
    possible = float(sum_lanes(count))
    variance = squares / possible - (total / possible) ** 2
    bound = np.float32(largest - sigmas * np.sqrt(max(variance, 0.0)))
    least, none = splat(bound), splat(np.float32(-np.inf))
    for token in range(0, logits.shape[0], 16):
        x = load_f32x16(address + 4 * token)
        store_f32x16(address + 4 * token, where_less(x, least, none, x))
    for group in range(logits.shape[0] // TOGETHER):
        if maxima[group] < bound:
            maxima[group] = np.float32(-np.inf)


@kernel
def _most_likely(logits: NDArray[np.float32], maxima: NDArray[np.float32]) -> int:
    """The lowest id of the largest logit, or an id past all."""
    largest, found = np.float32(-np.inf), 0
    for group in range(logits.shape[0] // TOGETHER):
        if maxima[group] > largest:
            largest, found = maxima[group], group
    for token in range(found * TOGETHER, (found + 1) * TOGETHER):
        if logits[token] == largest:
            return token
    return logits.shape[0]


@kernel
def draw(
    logits: NDArray[np.float32],  # [V rounded up to TOGETHER, with PADDING], changed in place
    memory: DrawMemory,  # maxima are those of the logits
    sample: Record,
    vocabulary: int,  # V
) -> int:
    """Draw one token id, NOT_DRAWN where biases, penalties and what is allowed left no largest logit that is finite."""
    best = _most_likely(logits, memory.maxima)
    if best >= vocabulary or not abs(logits[best]) < np.inf:
        return NOT_DRAWN
    if sample.temperature <= 0:
        return best
    random = uniform(sample.seed, sample.position)
    if sample.top_n_sigma > 0:
        keep_sigmas(logits, memory.maxima, logits[best], sample.top_n_sigma)
    late = sample.temperature_last != 0 and (sample.top_p < 1 or sample.min_p > 0)
    if sample.typical_p < 1 or sample.xtc_probability > 0 or late:
        chance = uniform(sample.seed ^ _OF_XTC, sample.position)
        return draw_filtered(logits, memory, sample, random, chance, best)
    return draw_weighed(logits, memory, sample, vocabulary, random, best)
