"""The candidates that top-k, top-p and min-p leave, and one draw among them.

Which are kept follows from the worst of them (`worst.py`), and where that is to be looked for from the largest logits
of groups of 128 candidates, which are known:

    top-k       at least k candidates are as good as the k-th best of the groups' largest: only groups that have such a
                one are looked at, and only their weights are computed
    otherwise   the weights of all groups are computed whose largest is above 0

A draw runs over the kept in the order of their ids, group by group; masses of 16 lanes are added up before they are
widened. Of 151,936 candidates, on a Zen 3 core: 0.03 ms with top-k 20, 0.11 without a filter, of which 0.1 are the
weights, 0.11 to 0.12 with top-p alone where it leaves some thousands, 0.17 to 0.19 where it leaves more of a flat
distribution, 0.3 where the sample misleads. *Rejected*: a heap, which takes 2.8 ms where few are kept and 96 to 144
where nearly all are; counting all candidates by bits, 0.8 to 1.4; bounds drawn closer by a look at all each time, 0.2
to 0.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import add, div, splat, sub, sum_lanes, where_less
from numoe.kernels.cpu.functions import exp_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.records import LISTED, TOGETHER, Record
from numoe.kernels.step.worst import ABOVE, ALL, TINY, DrawMemory, find_worst, list_between, narrow_worst


@kernel
def draw_listed(
    weights: NDArray[np.float32],  # [n]
    worst: np.float32,
    equals: int,
    random: float,
) -> int:
    """One draw among the candidates of more than the least weight, and the first so many that have it."""
    total, left = 0.0, equals
    for token in range(weights.shape[0]):
        if weights[token] >= worst:
            if weights[token] == worst:
                left -= 1
            if weights[token] > worst or left >= 0:
                total += weights[token]
    goal, mass, left, last = random * total, 0.0, equals, 0
    for token in range(weights.shape[0]):
        if weights[token] >= worst:
            if weights[token] == worst:
                left -= 1
            if weights[token] > worst or left >= 0:
                mass += weights[token]
                last = token
                if mass > goal:
                    return token
    return last


@kernel
def drop_equals(weights: NDArray[np.float32], memory: DrawMemory, worst: np.float32, equals: int) -> None:
    """Let only the first so many candidates keep the least weight."""
    address, least, zero, one = weights.ctypes.data, splat(worst), splat(np.float32(0.0)), splat(np.float32(1.0))
    left = equals
    for group in range(weights.shape[0] // TOGETHER):
        if memory.group_weights[group] >= worst:
            count = zero
            for token in range(group * TOGETHER, (group + 1) * TOGETHER, 16):
                x = load_f32x16(address + 4 * token)
                count = add(count, where_less(x, least, zero, where_less(least, x, zero, one)))
            found = int(sum_lanes(count))
            if found > left:
                _drop_after(weights[group * TOGETHER : (group + 1) * TOGETHER], worst, left)
            left = max(left - found, 0)


@kernel
def _drop_after(weights: NDArray[np.float32], value: np.float32, left: int) -> None:
    for token in range(weights.shape[0]):
        if weights[token] == value:
            left -= 1
            if left < 0:
                weights[token] = 0.0


@kernel
def draw_all(weights: NDArray[np.float32], memory: DrawMemory, worst: np.float32, random: float, best: int) -> int:
    """One draw among the candidates that are not smaller than `worst`; the groups' weights become those of such."""
    address, least, zero, total = weights.ctypes.data, splat(worst), splat(np.float32(0.0)), 0.0
    groups = weights.shape[0] // TOGETHER
    for group in range(groups):
        sums = zero
        if memory.group_weights[group] >= max(worst, TINY):
            for token in range(group * TOGETHER, (group + 1) * TOGETHER, 16):
                x = load_f32x16(address + 4 * token)
                sums = add(sums, where_less(x, least, zero, x))
        memory.group_weights[group] = sum_lanes(sums)
        total += memory.group_weights[group]
    goal, before, last = random * total, 0.0, best
    for group in range(groups):
        if before + memory.group_weights[group] > goal:
            mass = before
            for token in range(group * TOGETHER, (group + 1) * TOGETHER):
                if weights[token] >= worst and weights[token] > 0:
                    mass, last = mass + weights[token], token
                    if mass > goal:
                        return token
        before += memory.group_weights[group]
    return last


@kernel
def _weights_at(out: int, logits: int, largest: Any, temperature: Any) -> Any:
    """Store the weights of 16 logits, exp((logit - largest) / temperature); returns them."""
    weights = exp_vector(div(sub(load_f32x16(logits), largest), temperature))
    store_f32x16(out, weights)
    return weights


@kernel
def list_best(
    logits: NDArray[np.float32], memory: DrawMemory, most: int, largest: np.float32, temperature: np.float32
) -> int:
    """List at least the `most` best candidates; returns how many are listed, 0 if they would be too many.

    The groups' weights become their largest.
    """
    highest, divisor = splat(largest), splat(temperature)
    maxima, peaks = memory.maxima.ctypes.data, memory.group_weights.ctypes.data
    for group in range(0, memory.maxima.shape[0], 16):
        _weights_at(peaks + 4 * group, maxima + 4 * group, highest, divisor)
    groups = logits.shape[0] // TOGETHER
    if most > groups:
        return 0
    least, _, _ = find_worst(memory.group_weights[:groups], memory.buckets, most, np.inf)
    if least <= 0:
        return 0
    listed = 0
    for group in range(groups):
        if memory.group_weights[group] >= least:
            if listed + TOGETHER > LISTED:
                return 0
            room = memory.values[listed : listed + TOGETHER]
            for token in range(0, TOGETHER, 16):
                place = logits.ctypes.data + 4 * (group * TOGETHER + token)
                _weights_at(room.ctypes.data + 4 * token, place, highest, divisor)
            listed = list_between(room, memory, least, ABOVE, listed, group * TOGETHER)
    return listed


@kernel
def weigh_all(
    logits: NDArray[np.float32],  # changed in place
    memory: DrawMemory,  # the groups' weights are their largest
    largest: np.float32,
    temperature: np.float32,
) -> float:
    """Turn all logits into weights, but those of groups that have none above 0; returns their sum."""
    highest, divisor, total = splat(largest), splat(temperature), 0.0
    for group in range(logits.shape[0] // TOGETHER):
        if memory.group_weights[group] > 0:
            sums = splat(np.float32(0.0))
            for token in range(group * TOGETHER, (group + 1) * TOGETHER, 16):
                place = logits.ctypes.data + 4 * token
                sums = add(sums, _weights_at(place, place, highest, divisor))
            total += sum_lanes(sums)
    return total


@kernel
def draw_weighed(
    logits: NDArray[np.float32],  # [V rounded up to TOGETHER], changed in place
    memory: DrawMemory,  # maxima are those of the groups
    sample: Record,
    vocabulary: int,  # V
    random: float,
    best: int,
) -> int:
    """Apply temperature, top-k, then top-p to what is left, then min-p; one draw among the rest."""
    largest, temperature = logits[best], np.float32(sample.temperature)
    most = sample.top_k if 0 < sample.top_k < vocabulary else ALL
    listed = list_best(logits, memory, most, largest, temperature)
    if listed > 0:
        few = memory.values[:listed]
        worst, equals, mass = find_worst(few, memory.buckets, most, np.inf)
        if sample.top_p < 1.0:  # of what top-k leaves
            worst, equals, mass = find_worst(few, memory.buckets, most, sample.top_p * mass)
        if sample.min_p > worst:
            worst, equals = np.float32(sample.min_p), listed
        return memory.ids[draw_listed(few, worst, equals, random)]
    total = weigh_all(logits, memory, largest, temperature)
    worst, equals, mass = np.float32(0.0), ALL, total
    if most < ALL:
        worst, equals, mass = narrow_worst(logits, memory, total, most, np.inf)
    if sample.top_p < 1.0:
        worst, equals, mass = narrow_worst(logits, memory, total, most, sample.top_p * mass)
    if sample.min_p > worst:
        worst, equals = np.float32(sample.min_p), ALL
    if equals < ALL:
        drop_equals(logits, memory, worst, equals)
    return draw_all(logits, memory, worst, random, best)
