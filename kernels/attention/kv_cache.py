"""The KV cache: blocks of KV_BLOCK positions of one KV head, as panels that tiles read directly, in four formats.

Keys and values have each their own. A block begins with its keys:

    keys    [KV_BLOCK / 16 panels] of 16 positions, K values each       scores of 16 positions = one tile over K
    values  [K / 16 panels] of 16 dimensions, KV_BLOCK positions each   16 output dimensions = one tile over positions

    F32, F16, BF16     keys [panel][K][16 positions], values [panel][KV_BLOCK][16 dimensions]
    Q8_0   keys        [panel] as of weights (formats.py): per 32 values of a key one float16 scale and 32 bytes
           values      [K / 32][KV_BLOCK] float16 scales, then [panel][KV_BLOCK / 4 parts][16 dimensions][4] int8

A scale of Q8_0 is that of 32 values of one position, max |x| / 127; so storing a position changes no bit of another,
and what is stored of it depends on nothing else. The 4 bytes of a part are positions 0, 2, 1, 3 (kv_stores.py).

Values are finite whatever was ever computed: the cache starts as zeros, and they are stored as finite numbers, since
the weight 0 of a value that is not seen must make it 0. Scores of keys that are not seen are not looked at; so of a key
that holds an infinity or no number one number is none, and whoever sees it computes none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.kv_stores import (
    PART_BYTES,
    store_bf16x16,
    store_key_bf16,
    store_key_bytes,
    store_key_f16,
    store_value_bytes,
)
from numoe.kernels.cpu.arithmetic import absolute, finite, fma, max_lanes, maximum, mul, round_even, splat, sum_lanes
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32, load_f32x16
from numoe.kernels.cpu.stores import store_f16, store_f16x16, store_f32, store_f32x16, store_short_nan
from numoe.kernels.matmul.activations import rounding_of
from numoe.kernels.weights.formats import BLOCK, FORMATS, NUMBERS, ROWS, unit_places

KV_BLOCK = 64  # positions of a KV block
KV_FORMATS = ("F32", "F16", "BF16", "Q8_0")
F32, F16, BF16, Q8_0 = (NUMBERS[name] for name in KV_FORMATS)

_UNIT_BYTES = tuple(format_.unit_bytes for format_ in FORMATS)  # of 32 values, in these formats
_SCALES_BYTES = 2 * KV_BLOCK  # of 32 dimensions of values
_HEAD_BYTES = FORMATS[Q8_0].head_bytes  # scales of a panel block of keys
_QUANTS_BYTES = FORMATS[Q8_0].block_bytes  # of a panel block of keys
_TOGETHER = FORMATS[Q8_0].units_together


@kernel
def kv_half_bytes(head_size: int, kv_format: int) -> int:
    """Bytes of the keys of one KV block, or of its values, in this format."""
    return KV_BLOCK * head_size // BLOCK * _UNIT_BYTES[kv_format]


def kv_block_bytes(head_size: int, key_format: int, value_format: int) -> int:
    """Bytes of one KV block: the keys and values of one KV head."""
    return KV_BLOCK * head_size // BLOCK * (_UNIT_BYTES[key_format] + _UNIT_BYTES[value_format])


@kernel
def key_panel(kv_block: int, panel: int, head_size: int, kv_format: int) -> int:
    """Where 16 keys of the KV block at address `kv_block` lie."""
    return kv_block + kv_half_bytes(head_size, kv_format) // (KV_BLOCK // ROWS) * panel


@kernel
def value_scales(values: int, dimensions: int) -> int:
    """Where a Q8_0 block with its values at address `values` has the scales of the `dimensions`-th 32 dimensions."""
    return values + _SCALES_BYTES * dimensions


@kernel
def value_panel(values: int, panel: int, head_size: int, kv_format: int) -> int:
    """Where 16 dimensions of the values of a KV block, which begin at address `values`, lie."""
    if kv_format == Q8_0:
        return value_scales(values, head_size // BLOCK) + KV_BLOCK * ROWS * panel
    return values + kv_half_bytes(head_size, kv_format) // (head_size // ROWS) * panel


@kernel
def _scale_of(x: int) -> tuple[np.float32, np.float32]:
    """Of 32 floats, taken as finite: the scale, and the factor before rounding to whole numbers."""
    return rounding_of(max_lanes(maximum(absolute(finite(load_f32x16(x))), absolute(finite(load_f32x16(x + 64))))))


@kernel
def store_key(kv_block: int, offset: int, key: NDArray[np.float32], kv_format: int) -> None:
    """Put a key [K] at position `offset` of the KV block at address `kv_block`."""
    size, x, zero = key.shape[0], key.ctypes.data, splat(np.float32(0.0))
    _store_finite_key(kv_block, offset, x, size, kv_format)
    none = zero
    for value in range(0, size, ROWS):
        none = fma(load_f32x16(x + 4 * value), zero, none)
    if sum_lanes(none) != 0:  # NaN: 0 times anything finite is 0
        panel = key_panel(kv_block, offset // ROWS, size, kv_format)
        if kv_format == F32:
            store_f32(panel + 4 * (offset % ROWS), np.float32(np.nan))
        else:  # its first number, of Q8_0 the first scale: both are short
            store_short_nan(panel + 2 * (offset % ROWS))


@kernel
def _store_finite_key(kv_block: int, offset: int, x: int, size: int, kv_format: int) -> None:
    """Put a key where it belongs, with finite numbers where it holds others."""
    row = offset % ROWS
    panel = key_panel(kv_block, offset // ROWS, size, kv_format)
    if kv_format == Q8_0:
        for index in range(size // BLOCK):
            head, quants = unit_places(panel, index, size // BLOCK, _TOGETHER, _HEAD_BYTES, _QUANTS_BYTES)
            scale, inverse = _scale_of(x + 128 * index)
            store_f16(head + 2 * row, scale)
            for half in range(2):
                whole = round_even(mul(finite(load_f32x16(x + 128 * index + 64 * half)), splat(inverse)))
                store_key_bytes(quants + 4 * (row + PART_BYTES * half), whole)
        return
    if kv_format == F32:
        for value in range(size):
            store_f32(panel + 4 * (ROWS * value + row), load_f32(x + 4 * value))
        return
    for value in range(0, size, ROWS):
        if kv_format == F16:
            store_key_f16(panel + 2 * (ROWS * value + row), load_f32x16(x + 4 * value))
        else:
            store_key_bf16(panel + 2 * (ROWS * value + row), load_f32x16(x + 4 * value))


@kernel
def store_value(values: int, offset: int, value: int, size: int, kv_format: int) -> None:
    """Put a value (address of [K] float32) at position `offset` of a KV block whose values begin at `values`."""
    for index in range(size // ROWS):
        panel, x = value_panel(values, index, size, kv_format), value + 64 * index
        if kv_format == Q8_0:
            scale, inverse = _scale_of(value + 128 * (index // 2))
            store_f16(value_scales(values, index // 2) + 2 * offset, scale)
            byte = (offset % 4 & 1) << 1 | offset % 4 >> 1
            whole = round_even(mul(finite(load_f32x16(x)), splat(inverse)))
            store_value_bytes(panel + PART_BYTES * (offset // 4) + byte, whole)
        elif kv_format == F16:
            store_f16x16(panel + 2 * ROWS * offset, load_f32x16(x))
        elif kv_format == F32:
            store_f32x16(panel + 4 * ROWS * offset, finite(load_f32x16(x)))
        else:
            store_bf16x16(panel + 2 * ROWS * offset, load_f32x16(x))
