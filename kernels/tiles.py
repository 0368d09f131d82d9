"""Tiles: 16 rows of a panel times C activation columns, one kernel per format and C, called by address.

The weights of a tile are one *panel*: 16 rows, interleaved block by block (32 values along the input), so that one
load feeds 16 lanes. The activations are a *group* of C columns, interleaved block by block too, so that a tile walks
both with one pointer each:

    integer group, per block of 32 values                float group, per block of 32 values
    [C][32] int8    the values, rounded                  [C][32] float32
    [C]     float32 their scale
    [C]     int32   -128 * sum of the int8

Every column sees the same operations in the same order for every C (the sums of a block first, then the block's sum is
added to the column's total), so a result does not depend on which columns share a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from numoe.kernels.jit import address_of
from numoe.kernels.simd import load_bf16x16, load_f16x16, load_f32x16, load_u8x64
from numoe.kernels.tile_operations import (
    tile_add,
    tile_add_scaled,
    tile_dot4,
    tile_fma,
    tile_load_i32,
    tile_store,
    tile_zero,
)

BLOCK = 32  # values along the input per block, for every format
ROWS = 16  # rows of a panel
WIDTHS = (1, 2, 4, 8)  # columns of a tile; 8 int + 8 float accumulators leave registers for weights (16 spill)
WIDEST = WIDTHS[-1]

INTEGER_BYTES = 40  # per column and block: 32 values, scale, sum
FLOAT_BYTES = 128

Q8_0_PANEL_BLOCK = 544  # 16 float16 scales, then 8 x (16 rows x 4 values), each value + 128 as a byte

_SIGNATURE = types.void(types.uintp, types.intp, types.uintp, types.uintp, types.intp)


def _q8_0(columns: int) -> Callable[..., None]:
    block_bytes = INTEGER_BYTES * columns
    scales, sums = 32 * columns, 36 * columns

    def tile_q8_0(panel: int, blocks: int, group: int, out: int, stride: int) -> None:
        total = tile_zero(columns)
        for block in range(blocks):
            weights = panel + Q8_0_PANEL_BLOCK * block
            x = group + block_bytes * block
            dots = tile_load_i32(columns, x + sums)
            for part in range(8):
                dots = tile_dot4(dots, load_u8x64(weights + 32 + 64 * part), x + 4 * part, 32)
            total = tile_add_scaled(total, dots, load_f16x16(weights), x + scales)
        tile_store(total, out, stride)

    return tile_q8_0


def _float(format_number: int, value_bytes: int) -> Callable[[int], Callable[..., None]]:
    # Numba keys a cached closure by the pickles of what it closes over: those of integers never change, but those of
    # the load operations do with each process, which would then compile its own tiles and add them to the cache.
    row_bytes = ROWS * value_bytes

    def make(columns: int) -> Callable[..., None]:
        block_bytes = FLOAT_BYTES * columns

        def tile_float(panel: int, blocks: int, group: int, out: int, stride: int) -> None:
            total = tile_zero(columns)
            for block in range(blocks):
                weights = panel + BLOCK * row_bytes * block
                x = group + block_bytes * block
                part = tile_zero(columns)
                for value in range(BLOCK):
                    place = weights + row_bytes * value
                    if format_number == F32_TILE:
                        row = load_f32x16(place)
                    elif format_number == F16_TILE:
                        row = load_f16x16(place)
                    else:
                        row = load_bf16x16(place)
                    part = tile_fma(part, row, x + 4 * value, 128)
                total = tile_add(total, part)
            tile_store(total, out, stride)

        return tile_float

    return make


F32_TILE, F16_TILE, BF16_TILE, Q8_0_TILE = range(4)
# In the order of `Format.number` in formats.py.
TILES: tuple[Callable[[int], Callable[..., None]], ...] = (
    _float(F32_TILE, 4),
    _float(F16_TILE, 2),
    _float(BF16_TILE, 2),
    _q8_0,
)


def tile_table() -> NDArray[np.uintp]:  # [formats, widths]
    """Compile the tiles, or load them from the cache; [f, w] is the address of format f's tile of WIDTHS[w] columns."""
    table = [[address_of(_SIGNATURE, make(columns)) for columns in WIDTHS] for make in TILES]
    return np.array(table, np.uintp)


@intrinsic
def run_tile(typing_context: Any, address: Any, panel: Any, blocks: Any, group: Any, out: Any, stride: Any) -> Any:
    """Call the tile kernel at `address`; group and out are addresses, stride the bytes between columns of out."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [word] * 5)
        builder.call(builder.inttoptr(values[0], function.as_pointer()), list(values[1:]))
        return context.get_dummy_value()

    arguments = (types.uintp, types.uintp, types.intp, types.uintp, types.uintp, types.intp)
    return types.void(*arguments), code
