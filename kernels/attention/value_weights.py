"""The weights that values are multiplied with: exp(score - maximum), as words where values are integers."""

from __future__ import annotations

import numpy as np

from numoe.kernels.attention.kv_cache import KV_BLOCK, value_scales
from numoe.kernels.attention.kv_stores import store_words
from numoe.kernels.attention.scratch import WORD_GROUP_BYTES
from numoe.kernels.attention.value_tile import COLUMN_BYTES, WORD_GROUP_HEAD
from numoe.kernels.cpu.arithmetic import add, lane_numbers, max_lanes, maximum, mul, round_even, splat, sub, where_less
from numoe.kernels.cpu.functions import exp_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f16x16, load_f32x16
from numoe.kernels.cpu.stores import store_f32, store_f32x16

MOST_WORD = np.float32(32767.0)
_ZERO = np.float32(0.0)


@kernel
def weigh(scores: int, largest: np.float32, sums: int, spans: int, columns: int, group: int) -> None:
    """Write one column of a float group: exp(score - maximum) of a KV block's positions; and add it to `sums`."""
    total = load_f32x16(sums)
    for part in range(2 * spans):
        weight = exp_vector(sub(load_f32x16(scores + 64 * part), splat(largest)))
        total = add(total, weight)
        store_f32x16(group + part // 2 * columns * 128 + part % 2 * 64, weight)
    store_f32x16(sums, total)


@kernel
def weigh_words(
    scores: int, largest: np.float32, sums: int, spans: int, columns: int, group: int, scales: int, size: int
) -> None:
    """As `weigh`, but one column of a word group per 32 dimensions: times the positions' scales, rounded."""
    total = load_f32x16(sums)
    for part in range(2 * spans):
        weight = exp_vector(sub(load_f32x16(scores + 64 * part), splat(largest)))
        total = add(total, weight)
        place = group + WORD_GROUP_HEAD + part // 2 * columns * COLUMN_BYTES + part % 2 * 32
        for dimensions in range(size // 32):
            scaled = mul(weight, load_f32x16(scales + 4 * KV_BLOCK * dimensions + 64 * part))
            store_words(place + WORD_GROUP_BYTES * dimensions, round_even(scaled))
    store_f32x16(sums, total)


@kernel
def scale_words(values: int, valid: int, spans: int, size: int, group: int, scales: int) -> None:
    """Write the scales of a KV block's valid positions, with MOST_WORD for the largest, and each word group's float.

    The block's values begin at address `values`.
    """
    for dimensions in range(size // 32):
        source, out = value_scales(values, dimensions), scales + 4 * KV_BLOCK * dimensions
        highest = splat(_ZERO)
        for part in range(2 * spans):
            limit = splat(np.float32(valid - 16 * part))
            scale = where_less(lane_numbers(), limit, load_f16x16(source + 32 * part), splat(_ZERO))
            highest = maximum(scale, highest)
            store_f32x16(out + 64 * part, scale)
        largest = max_lanes(highest)
        factor = _ZERO
        if largest > _ZERO:
            factor = MOST_WORD / largest
        for part in range(2 * spans):
            store_f32x16(out + 64 * part, mul(load_f32x16(out + 64 * part), splat(factor)))
        store_f32(group + WORD_GROUP_BYTES * dimensions, largest / MOST_WORD)
