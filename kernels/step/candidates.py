"""The candidates that top-k, top-p and min-p leave, and one draw among them.

Candidates are better the larger their weight, or, among equals, the lower their id. Which are kept follows from the
worst of them, and that is looked for among a few: 128 candidates are a group, whose largest logit is known.

    top-k       at least k candidates are as good as the k-th best of the groups' largest: only groups that have such a
                one are looked at, and only their weights are computed
    otherwise   all weights are, and a bound is drawn closer from both sides, by vectors that count and add up what lies
                above one in between, until few are left: 15 us a time for 151,936 candidates

Among those few the worst is found by counting, without any order: numbers and masses by the upper 10 bits of their
weights, from the largest down, until there are enough; then by the next 10 bits of those alike so far, and by the last
10. A draw runs over the kept in the order of their ids, group by group; masses of 16 lanes are added up before they are
widened. Of 151,936 candidates, on a Zen 3 core: 0.03 ms with top-k 20, 0.13 without a filter, of which 0.1 are the
weights, 0.2 to 0.45 with top-p alone. *Rejected*: a heap, which takes 2.8 ms where few are kept and 96 to 144 where
nearly all are; counting all candidates by bits, 0.8 to 1.4 ms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import add, div, lanes_between, splat, sub, sum_lanes, where_less
from numoe.kernels.cpu.functions import exp_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.records import BUCKETS, LISTED, TOGETHER, Record

_BITS = 10  # of a weight, at a time: 30 in all, as weights are positive and at most 1
assert 1 << _BITS == BUCKETS
_FOLDED = 8  # groups whose masses are added up by lanes
ALL = 1 << 30
_LEAST_SHARE = 0.2  # of what lies between two bounds, that a new one cuts off
_ABOVE_ONE = np.int32(0x3F800001)  # the bits of the number after 1


class DrawMemory(NamedTuple):
    """Scratch of one thread's draws."""

    maxima: NDArray[np.float32]  # [V / TOGETHER, rounded up to 16] the largest logit of each group
    group_weights: NDArray[np.float32]  # [the same]
    values: NDArray[np.float32]  # [LISTED] weights of those that are looked at one by one
    ids: NDArray[np.int32]  # [LISTED]
    buckets: NDArray[np.float64]  # [2, BUCKETS] how many, and their mass


@kernel
def _count(weights: NDArray[np.float32], buckets: NDArray[np.float64], prefix: int, shift: int) -> None:
    """Count the candidates whose bits above `shift` + 10 are the prefix, by their next 10 bits."""
    bits = weights.view(np.uint32)
    buckets[:] = 0.0
    for token in range(bits.shape[0]):
        above = np.uint64(bits[token]) >> np.uint64(shift)
        if above >> np.uint64(_BITS) == np.uint64(prefix):
            bucket = above & np.uint64(BUCKETS - 1)
            buckets[0, bucket] += 1.0
            buckets[1, bucket] += weights[token]


@kernel
def find_worst(
    weights: NDArray[np.float32],  # [n] of 0 to 1, one of them above 0
    buckets: NDArray[np.float64],  # [2, BUCKETS] scratch
    most: int,
    mass_wanted: float,
) -> tuple[np.float32, int, float]:
    """Take candidates, best first, until they are `most` or have the mass, at least one, all if they never have.

    Returns:
        the weight of the worst that is taken, how many of that weight are, and the mass of all taken.
    """
    prefix, number, mass, worst, equals, found = 0, 0.0, 0.0, np.float32(0.0), 0.0, 0
    for shift in (2 * _BITS, _BITS, 0):
        _count(weights, buckets, prefix, shift)
        equals = 0.0
        for bucket in range(BUCKETS - 1, -1, -1):
            if buckets[0, bucket] > 0:
                if equals > 0:  # what was found before is not enough
                    number, mass = number + equals, mass + buckets[1, found]
                found, equals = bucket, buckets[0, bucket]
                if number + equals >= most or mass + buckets[1, bucket] >= mass_wanted:
                    break
        prefix = prefix << _BITS | found
    worst = np.float32(buckets[1, found] / equals)  # exact, as all are the same
    taken = _taken(worst, equals, most - number, mass_wanted - mass)
    return worst, taken, mass + taken * float(worst)


@kernel
def _taken(worst: np.float32, equals: float, most: float, mass_wanted: float) -> int:
    """How many of some candidates that are alike are taken."""
    taken = min(equals, most)
    if mass_wanted / worst < taken:
        taken = max(1.0, np.ceil(mass_wanted / worst))
    return int(taken)


@kernel
def _above(weights: NDArray[np.float32], bound: np.float32) -> tuple[int, float]:
    """How many weights are as large as the bound, and their mass."""
    address, zero, one, least = weights.ctypes.data, splat(np.float32(0.0)), splat(np.float32(1.0)), splat(bound)
    count, mass, step = zero, 0.0, TOGETHER * _FOLDED
    for first in range(0, weights.shape[0], step):
        sums = zero
        for token in range(first, min(first + step, weights.shape[0]), 16):
            x = load_f32x16(address + 4 * token)
            sums = add(sums, where_less(x, least, zero, x))
            count = add(count, where_less(x, least, zero, one))
        mass += sum_lanes(sums)
    return int(sum_lanes(count)), mass


@kernel
def list_between(
    weights: NDArray[np.float32],  # [a multiple of 16]
    memory: DrawMemory,
    least: np.float32,
    below: np.float32,
    before: int,
    first_id: int,
) -> int:
    """List the weights from `least` to less than `below` after `before` listed ones; returns how many are listed."""
    address, low, high, listed = weights.ctypes.data, splat(least), splat(below), before
    for first in range(0, weights.shape[0], 16):
        found = lanes_between(load_f32x16(address + 4 * first), low, high)
        for lane in range(16):
            if found == 0:
                break
            if found & np.uint64(1):
                memory.values[listed] = weights[first + lane]
                memory.ids[listed] = first_id + first + lane
                listed += 1
            found >>= np.uint64(1)
    return listed


@kernel
def narrow_worst(
    weights: NDArray[np.float32],  # [V rounded up to TOGETHER] of 0 to 1, one of them 1
    memory: DrawMemory,
    total: float,  # their sum
    most: int,
    mass_wanted: float,
) -> tuple[np.float32, int, float]:
    """As find_worst, of any number of candidates; those of weight 0 are not taken."""
    bits = memory.ids[:1]
    bound = bits.view(np.float32)
    low, high = np.int32(1), _ABOVE_ONE  # as bits; what lies above `high` is not enough
    number, mass, between, mass_between = 0, 0.0, weights.shape[0], total
    rest = (total - mass_wanted) / weights.shape[0]  # all that are smaller are less than what may be left out
    bound[0] = np.float32(max(rest, 0.0) * 0.999)
    middle = bits[0] if low < bits[0] < high else (low + high) // 2
    while between > LISTED and high - low > 1:
        bits[0] = middle
        count, above = _above(weights, bound[0])
        if count >= most or above >= mass_wanted:
            low, between, mass_between = middle, count - number, above - mass
        else:
            between, mass_between = between - (count - number), mass_between - (above - mass)
            high, number, mass = middle, count, above
        wanted = (mass_wanted - mass) / mass_between if mass_between > 0 else 1.0
        share = min(max(1.0 - min(wanted, (most - number) / between), _LEAST_SHARE), 1.0 - _LEAST_SHARE)
        middle = low + max(np.int32(1), np.int32(share * (high - low)))
    bits[0] = low
    least = bound[0]
    if high - low == 1:
        taken = _taken(least, float(between), float(most - number), mass_wanted - mass)
        return least, taken, mass + taken * float(least)
    bits[0] = high
    below = bound[0]
    listed = list_between(weights, memory, least, below, 0, 0)
    worst, taken, of_list = find_worst(memory.values[:listed], memory.buckets, most - number, mass_wanted - mass)
    return worst, taken, mass + of_list


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
def drop_equals(weights: NDArray[np.float32], worst: np.float32, equals: int) -> None:
    """Let only the first so many candidates keep the least weight."""
    address, least, zero, one = weights.ctypes.data, splat(worst), splat(np.float32(0.0)), splat(np.float32(1.0))
    count = zero
    for token in range(0, weights.shape[0], 16):
        x = load_f32x16(address + 4 * token)
        count = add(count, where_less(x, least, zero, where_less(least, x, zero, one)))
    left = equals
    if sum_lanes(count) > equals:
        for token in range(weights.shape[0]):
            if weights[token] == worst:
                left -= 1
                if left < 0:
                    weights[token] = 0.0


@kernel
def draw_all(weights: NDArray[np.float32], memory: DrawMemory, worst: np.float32, random: float, best: int) -> int:
    """One draw among the candidates that are not smaller than `worst`."""
    address, least, zero, total = weights.ctypes.data, splat(worst), splat(np.float32(0.0)), 0.0
    groups = weights.shape[0] // TOGETHER
    for group in range(groups):
        sums = zero
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
def _weights_at(out: int, logits: int, largest: Any, temperature: Any) -> None:
    """Of the 16 logits at an address: exp((logit - largest) / temperature)."""
    store_f32x16(out, exp_vector(div(sub(load_f32x16(logits), largest), temperature)))


@kernel
def list_best(
    logits: NDArray[np.float32], memory: DrawMemory, most: int, largest: np.float32, temperature: np.float32
) -> int:
    """List at least the `most` best candidates; returns how many are listed, 0 if they would be too many."""
    groups = logits.shape[0] // TOGETHER
    if most > groups:
        return 0
    highest, divisor = splat(largest), splat(temperature)
    maxima, peaks = memory.maxima.ctypes.data, memory.group_weights.ctypes.data
    for group in range(0, memory.maxima.shape[0], 16):
        _weights_at(peaks + 4 * group, maxima + 4 * group, highest, divisor)
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
            listed = list_between(room, memory, least, np.float32(2.0), listed, group * TOGETHER)
    return listed


@kernel
def weigh_all(logits: NDArray[np.float32], largest: np.float32, temperature: np.float32) -> float:
    """Turn all logits into weights, in place; returns their sum."""
    highest, divisor, total = splat(largest), splat(temperature), 0.0
    for first in range(0, logits.shape[0], TOGETHER):
        sums = splat(np.float32(0.0))
        for token in range(first, first + TOGETHER, 16):
            place = logits.ctypes.data + 4 * token
            _weights_at(place, place, highest, divisor)
            sums = add(sums, load_f32x16(place))
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
    total = weigh_all(logits, largest, temperature)
    worst, equals, mass = np.float32(0.0), ALL, total
    if most < ALL:
        worst, equals, mass = narrow_worst(logits, memory, total, most, np.inf)
    if sample.top_p < 1.0:
        worst, equals, mass = narrow_worst(logits, memory, total, most, sample.top_p * mass)
    if sample.min_p > worst:
        worst, equals = np.float32(sample.min_p), ALL
    if equals < ALL:
        drop_equals(logits, worst, equals)
    return draw_all(logits, memory, worst, random, best)
