"""The worst candidate that is kept, of which all others follow, without sorting them.

Candidates are better the larger their weight, or, among equals, the lower their id. Among a few the worst is found by
counting: numbers and masses by the upper 10 bits of their weights, from the largest down, until there are enough; then
by the next 10 bits of those alike so far, and by the last 10. Which few of many are counted:

    1.  The best of groups of 128 are candidates, too: the worst of these, taken until they are enough, bounds the worst
        of all from below. Where few are as large, those are counted.
    2.  A sixteenth of all tells between which bounds the worst is likely to lie, by what is smaller, of which there is
        more: one look at all lists what lies between them, and adds up what lies above.
    3.  Where that fails, the bounds are drawn closer from both sides, by a look at all each time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import add, lanes_between, lowest_bit, splat, sum_lanes, where_less
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.records import BUCKETS, LISTED, TOGETHER

ALL = 1 << 30  # instead of a number of candidates
_BITS = 10  # of a weight, at a time: 30 in all, as weights are positive and at most 1
assert 1 << _BITS == BUCKETS
_FOLDED = 8  # groups whose masses are added up by lanes
_LEAST_SHARE = 0.2  # of what lies between two bounds, that a new one cuts off
_ABOVE_ONE = np.int32(0x3F800001)  # the bits of the number after 1
TINY, ABOVE = np.float32(2.0**-126), np.float32(2.0)  # of what is above 0, none is smaller, none larger
_APART = 16  # one group of so many is in the sample
_SURE = 96  # ranks in the sample by which its worst may be wrong: two deviations at most, of 152,064 candidates
_NEAR = 128  # of the sample, which lie in between as evenly as it takes


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
        the weight of the worst that is taken, how many of that weight are, ALL if each is, and the mass of all taken.
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
    return worst, ALL if taken == equals else taken, mass + taken * float(worst)


@kernel
def _taken(worst: np.float32, equals: float, most: float, mass_wanted: float) -> int:
    """How many of some candidates that are alike are taken."""
    taken = min(equals, most)
    if mass_wanted / worst < taken:
        taken = max(1.0, np.ceil(mass_wanted / worst))
    return int(taken)


@kernel
def _add_above(address: int, bound: Any, count: Any, sums: Any) -> tuple[Any, Any]:
    """Count and add up by lanes, of one group, what is as large as the bound."""
    zero, one = splat(np.float32(0.0)), splat(np.float32(1.0))
    for place in range(address, address + 4 * TOGETHER, 64):
        x = load_f32x16(place)
        sums = add(sums, where_less(x, bound, zero, x))
        count = add(count, where_less(x, bound, zero, one))
    return count, sums


@kernel
def _above(weights: NDArray[np.float32], memory: DrawMemory, bound: np.float32, apart: int) -> tuple[int, float]:
    """How many weights are as large as the bound, in one group of `apart`, and their mass."""
    zero, least = splat(np.float32(0.0)), splat(bound)
    count, mass, groups = zero, 0.0, weights.shape[0] // TOGETHER
    for first in range(0, groups, _FOLDED * apart):
        sums = zero
        for group in range(first, min(first + _FOLDED * apart, groups), apart):
            if memory.group_weights[group] >= bound:
                count, sums = _add_above(weights.ctypes.data + 4 * TOGETHER * group, least, count, sums)
        mass += sum_lanes(sums)
    return int(sum_lanes(count)), mass


@kernel
def list_between(
    weights: NDArray[np.float32],  # [TOGETHER]
    memory: DrawMemory,
    least: np.float32,
    below: np.float32,
    before: int,
    first_id: int,
) -> int:
    """List the weights from `least` to less than `below` after `before` listed ones; returns how many are listed."""
    address, low, high, listed = weights.ctypes.data, splat(least), splat(below), before
    for first in range(0, TOGETHER, 64):
        found = np.uint64(0)
        for token in range(0, 64, 16):
            lanes = lanes_between(load_f32x16(address + 4 * (first + token)), low, high)
            found |= lanes << np.uint64(token)
        while found != 0:
            token = first + int(lowest_bit(found))
            memory.values[listed], memory.ids[listed] = weights[token], first_id + token
            listed += 1
            found &= found - np.uint64(1)
    return listed


@kernel
def list_large(
    weights: NDArray[np.float32],  # [V rounded up to TOGETHER] of 0 to 1
    memory: DrawMemory,  # the groups' weights are their largest
    least: np.float32,  # above 0
    below: np.float32,
) -> tuple[int, int, float]:
    """List the weights from `least` to less than `below`.

    Returns:
        how many are listed, 0 if they would be too many, how many are as large as `below`, and the mass of the latter.
    """
    zero, high = splat(np.float32(0.0)), splat(below)
    listed, count, mass = 0, zero, 0.0
    for group in range(weights.shape[0] // TOGETHER):
        if memory.group_weights[group] >= least:
            if listed + TOGETHER > LISTED:
                return 0, 0, 0.0
            of_group = weights[group * TOGETHER : (group + 1) * TOGETHER]
            listed = list_between(of_group, memory, least, below, listed, group * TOGETHER)
            if memory.group_weights[group] >= below:
                count, sums = _add_above(of_group.ctypes.data, high, count, zero)
                mass += sum_lanes(sums)
    return listed, int(sum_lanes(count)), mass


@kernel
def mass_of(weights: NDArray[np.float32]) -> float:
    """Their sum, one after the other."""
    total = 0.0
    for value in weights:
        total += value
    return total


@kernel
def _narrow(
    weights: NDArray[np.float32],
    memory: DrawMemory,
    apart: int,  # one group of so many is looked at
    few: int,
    most: float,
    mass_wanted: float,
) -> tuple[np.int32, np.int32, int, float, int, float]:
    """Draw two bounds closer, of which the lower has enough above it and the upper has not, until few lie in between.

    Returns:
        both as bits, how many are as large as the upper one, their mass, how many lie in between, and where between the
        bounds the worst would be if those did so evenly, from 0 to 1.
    """
    bits = memory.ids[:1]
    bound = bits.view(np.float32)
    low, high, number, mass = np.int32(1), _ABOVE_ONE, 0, 0.0
    between, mass_between = _above(weights, memory, TINY, apart)
    while True:
        wanted = (mass_wanted - mass) / mass_between if mass_between > 0 else 1.0
        place = min(max(1.0 - min(wanted, (most - number) / max(between, 1)), 0.0), 1.0)
        if between <= few or high - low <= 1:
            return low, high, number, mass, between, place
        share = min(max(place, _LEAST_SHARE), 1.0 - _LEAST_SHARE)
        middle = low + max(np.int32(1), np.int32(share * (high - low)))
        bits[0] = middle
        count, above = _above(weights, memory, bound[0], apart)
        if count >= most or above >= mass_wanted:
            low, between, mass_between = middle, count - number, above - mass
        else:
            between, mass_between = between - (count - number), mass_between - (above - mass)
            high, number, mass = middle, count, above


@kernel
def _floats(memory: DrawMemory, low: np.int32, high: np.int32) -> tuple[np.float32, np.float32]:
    """Two weights of which the bits are given."""
    bits = memory.ids[:2]
    bits[0], bits[1] = low, high
    values = bits.view(np.float32)
    return values[0], values[1]


@kernel
def _estimate(
    weights: NDArray[np.float32], memory: DrawMemory, total: float, most: int, mass_wanted: float
) -> tuple[np.float32, np.float32]:
    """Two bounds between which the worst is likely to lie, by what of a sample is smaller."""
    groups = weights.shape[0] // TOGETHER
    sampled = (groups + _APART - 1) // _APART
    share = sampled / groups
    _, mass = _above(weights, memory, TINY, _APART)
    most_of_sample = sampled * TOGETHER - (weights.shape[0] - most) * share
    mass_of_sample = mass - (total - mass_wanted) * share
    low, high, _, _, between, place = _narrow(weights, memory, _APART, _NEAR, most_of_sample, mass_of_sample)
    middle, away = low + place * (high - low), _SURE / max(between, 1) * (high - low)
    return _floats(memory, np.int32(max(middle - away, 1.0)), np.int32(min(middle + away, float(_ABOVE_ONE))))


@kernel
def _list_near_worst(
    weights: NDArray[np.float32], memory: DrawMemory, total: float, most: int, mass_wanted: float
) -> tuple[int, int, float]:
    """List those among which the worst is; returns as list_large does, nothing where they could not be found so."""
    peaks = memory.group_weights[: weights.shape[0] // TOGETHER]
    enough = most <= peaks.shape[0] or mass_of(peaks) >= mass_wanted
    if enough or weights.shape[0] <= LISTED:
        least = TINY
        if enough:
            least = max(find_worst(peaks, memory.buckets, most, mass_wanted)[0], TINY)
        listed, number, mass = list_large(weights, memory, least, ABOVE)
        if listed > 0:
            return listed, number, mass
    least, below = _estimate(weights, memory, total, most, mass_wanted)
    listed, number, mass = list_large(weights, memory, least, below)
    enough = number + listed >= most or mass + mass_of(memory.values[:listed]) >= mass_wanted
    if enough and number < most and mass < mass_wanted:
        return listed, number, mass
    return 0, 0, 0.0


@kernel
def narrow_worst(
    weights: NDArray[np.float32],  # [V rounded up to TOGETHER] of 0 to 1, one of them 1
    memory: DrawMemory,  # the groups' weights are their largest
    total: float,  # their sum
    most: int,
    mass_wanted: float,
) -> tuple[np.float32, int, float]:
    """As find_worst, of any number of candidates; those of weight 0 are not taken."""
    listed, number, mass = _list_near_worst(weights, memory, total, most, mass_wanted)
    if listed == 0:
        low, high, number, mass, between, _ = _narrow(weights, memory, 1, LISTED - TOGETHER, most, mass_wanted)
        least, below = _floats(memory, low, high)
        if high - low == 1:  # they are alike
            taken = _taken(least, float(between), float(most - number), mass_wanted - mass)
            return least, taken, mass + taken * float(least)
        listed, number, mass = list_large(weights, memory, least, below)
    worst, taken, of_list = find_worst(memory.values[:listed], memory.buckets, most - number, mass_wanted - mass)
    return worst, taken, mass + of_list
