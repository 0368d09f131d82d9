"""The KV cache: blocks of BLOCK positions of one KV head, as panels that tiles read directly, in one of four formats.

    keys    [BLOCK / 16 panels] of 16 positions, K values each        scores of 16 positions = one tile over K
    values  [K / 16 panels] of 16 dimensions, BLOCK positions each    16 output dimensions = one tile over the positions

    F32, F16, BF16     keys [panel][K][16 positions], values [panel][BLOCK][16 dimensions]
    Q8_0   keys        [panel] as of weights (formats.py): per 32 values of a key one float16 scale and 32 bytes
           values      [K / 32][BLOCK] float16 scales, then [panel][BLOCK / 4 parts][16 dimensions][4] int8

A scale of Q8_0 is that of 32 values of one position, max |x| / 127; so storing a position changes no bit of another,
and what is stored of it depends on nothing else. The 4 bytes of a part are positions 0, 2, 1, 3 (kv_operations.py).

What the cache holds is finite whatever was ever computed: it starts as zeros, and values are stored as finite numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.kv_operations import (
    PART_BYTES,
    store_bf16x16,
    store_key_bf16,
    store_key_bytes,
    store_value_bytes,
)
from numoe.kernels.cpu.arithmetic import absolute, finite, max_lanes, maximum, mul, round_even, splat
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f16, store_f16x16, store_f32, store_f32x16
from numoe.kernels.weights.formats import FORMATS, NUMBERS, ROWS, unit_places

BLOCK = 64  # positions of a KV block
KV_FORMATS = ("F32", "F16", "BF16", "Q8_0")
F32, F16, BF16, Q8_0 = (NUMBERS[name] for name in KV_FORMATS)

_BLOCK_VALUES = 32  # that share a scale
_UNIT_BYTES = tuple(format_.unit_bytes for format_ in FORMATS)  # of 32 values, in these formats
_SCALES_BYTES = 2 * BLOCK  # of 32 dimensions of values
_HEAD_BYTES = FORMATS[Q8_0].head_bytes  # scales of a panel block of keys
_QUANTS_BYTES = FORMATS[Q8_0].block_bytes  # of a panel block of keys
_TOGETHER = FORMATS[Q8_0].units_together
_TINY = np.float32(1e-30)  # blocks below this are zeros: 127 / max would overflow


@kernel
def kv_half_bytes(head_size: int, kv_format: int) -> int:
    """Bytes of the keys of one block of one KV head; as many are values."""
    return BLOCK * head_size // _BLOCK_VALUES * _UNIT_BYTES[kv_format]


def kv_block_bytes(head_size: int, kv_format: int) -> int:
    """Bytes of one block of one KV head: keys and values."""
    return 2 * BLOCK * head_size // _BLOCK_VALUES * _UNIT_BYTES[kv_format]


@kernel
def key_panel(block: int, panel: int, head_size: int, kv_format: int) -> int:
    """Where 16 keys of the block at address `block` lie."""
    return block + kv_half_bytes(head_size, kv_format) // (BLOCK // ROWS) * panel


@kernel
def value_scales(block: int, dimensions: int, head_size: int) -> int:
    """Q8_0: where the scales of values lie, of 32 dimensions `dimensions`."""
    return block + kv_half_bytes(head_size, Q8_0) + _SCALES_BYTES * dimensions


@kernel
def value_panel(block: int, panel: int, head_size: int, kv_format: int) -> int:
    """Where 16 dimensions of the values of the block at address `block` lie."""
    if kv_format == Q8_0:
        return value_scales(block, head_size // _BLOCK_VALUES, head_size) + BLOCK * ROWS * panel
    return block + kv_half_bytes(head_size, kv_format) // (head_size // ROWS) * (head_size // ROWS + panel)


@kernel
def _scale_of(x: int) -> tuple[np.float32, np.float32]:
    """Of 32 floats: the scale, and what to multiply with before rounding to whole numbers."""
    largest = max_lanes(maximum(absolute(finite(load_f32x16(x))), absolute(finite(load_f32x16(x + 64)))))
    inverse = np.float32(0.0)
    if largest > _TINY:
        inverse = np.float32(127.0) / largest
    return largest / np.float32(127.0), inverse


@kernel
def store_key(block: int, offset: int, key: NDArray[np.float32], kv_format: int) -> None:
    """Put a key [K] at position `offset` of the KV block at address `block`."""
    size, row, x = key.shape[0], offset % ROWS, key.ctypes.data
    panel = key_panel(block, offset // ROWS, size, kv_format)
    if kv_format == Q8_0:
        for index in range(size // _BLOCK_VALUES):
            head, quants = unit_places(panel, index, size // _BLOCK_VALUES, _TOGETHER, _HEAD_BYTES, _QUANTS_BYTES)
            scale, inverse = _scale_of(x + 128 * index)
            store_f16(head + 2 * row, scale)
            for half in range(2):
                whole = round_even(mul(finite(load_f32x16(x + 128 * index + 64 * half)), splat(inverse)))
                store_key_bytes(quants + 4 * (row + PART_BYTES * half), whole)
        return
    if kv_format == BF16:
        for value in range(0, size, ROWS):
            store_key_bf16(panel + 2 * (ROWS * value + row), load_f32x16(x + 4 * value))
        return
    for value in range(size):
        if kv_format == F16:
            store_f16(panel + 2 * (ROWS * value + row), key[value])
        else:
            store_f32(panel + 4 * (ROWS * value + row), key[value])


@kernel
def store_value(block: int, offset: int, value: int, size: int, kv_format: int) -> None:
    """Put a value (address of [K] float32) at position `offset` of the KV block at address `block`."""
    for index in range(size // ROWS):
        panel, x = value_panel(block, index, size, kv_format), value + 64 * index
        if kv_format == Q8_0:
            scale, inverse = _scale_of(value + 128 * (index // 2))
            store_f16(value_scales(block, index // 2, size) + 2 * offset, scale)
            byte = (offset % 4 & 1) << 1 | offset % 4 >> 1
            whole = round_even(mul(finite(load_f32x16(x)), splat(inverse)))
            store_value_bytes(panel + PART_BYTES * (offset // 4) + byte, whole)
        elif kv_format == F16:
            store_f16x16(panel + 2 * ROWS * offset, load_f32x16(x))
        elif kv_format == F32:
            store_f32x16(panel + 4 * ROWS * offset, finite(load_f32x16(x)))
        else:
            store_bf16x16(panel + 2 * ROWS * offset, load_f32x16(x))
