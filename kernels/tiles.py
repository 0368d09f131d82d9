"""Tiles: 16 rows of a panel times C activation columns, one kernel per format and C, called by address.

The weights of a tile are one *panel* (formats.py): 16 rows, interleaved, so that one load feeds 16 lanes; the
activations are a *group* of C columns (groups.py). Every column sees the same operations in the same order for every C:
the products of a block are summed exactly as integers, made one float block value, and that times the activations'
scale is added to the column's total by one fused operation. So a result does not depend on which columns share a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from numoe.kernels.formats import FORMATS, NUMBERS, Format, Meaning
from numoe.kernels.groups import (
    BLOCK,
    FIELD_BYTES,
    FLOAT_BYTES,
    HALF_SUMS,
    INTEGER_BYTES,
    ROWS,
    SCALE,
    SUM,
    SUM_128,
    VALUES_BYTES,
    WIDTHS,
)
from numoe.kernels.jit import address_of
from numoe.kernels.simd import (
    high_nibbles,
    load_bf16x16,
    load_e8m0x16,
    load_f16x16,
    load_f32x16,
    load_i8_pairs,
    load_i8x16,
    load_u8_pairs,
    load_u8x16,
    low_nibbles,
    mul,
    multiply_words,
    negate,
    prefetch,
)
from numoe.kernels.tile_operations import (
    tile_add,
    tile_add_dots,
    tile_add_pairs,
    tile_add_scaled,
    tile_dot,
    tile_dot_pairs,
    tile_dot_weighed,
    tile_fma,
    tile_load_i32,
    tile_scale,
    tile_store,
    tile_weigh_halves,
    tile_zero,
    tile_zero_i32,
)

CACHE_LINE = 64
AHEAD_COLUMNS = 8  # tiles at least so wide ask for the panel that comes next, narrower ones for what follows at once:
DISTANCE = 8192  # bytes. The CPU's own prefetching alone brings half of what memory gives.

F32_TILE, F16_TILE, BF16_TILE = NUMBERS["F32"], NUMBERS["F16"], NUMBERS["BF16"]

Tile = Callable[..., None]  # (panel, blocks, group, out, stride, ahead)
TILE_SIGNATURE = types.void(types.uintp, types.intp, types.uintp, types.uintp, types.intp, types.uintp)

# Numba keys a cached closure by the pickles of what it closes over: those of integers never change, but those of
# functions do with each process, which would then compile its own tiles and add them to the cache. So tiles close over
# integers only. They are constants to LLVM, which drops the branches not taken.


def _float(format_: Format, columns: int) -> Tile:
    bits = format_.low_bits
    number = NUMBERS[format_.name]
    row_bytes = ROWS * bits // 8
    block_bytes = FLOAT_BYTES * columns
    lines = BLOCK * row_bytes // CACHE_LINE

    def tile_float(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int) -> None:
        total = tile_zero(columns)
        coming = np.int64(ahead)  # signed: Numba makes floating-point numbers of sums of unsigned and signed ones
        if columns < AHEAD_COLUMNS:
            coming = np.int64(panel) + DISTANCE
        for block in range(blocks):
            weights = panel + BLOCK * row_bytes * block
            x = group + block_bytes * block
            part = tile_zero(columns)
            for value in range(BLOCK):
                place = weights + row_bytes * value
                if number == F32_TILE:
                    row = load_f32x16(place)
                elif number == F16_TILE:
                    row = load_f16x16(place)
                else:
                    row = load_bf16x16(place)
                part = tile_fma(part, row, x + 4 * value, 128)
            total = tile_add(total, part)
            if coming != 0:
                for line in range(lines):
                    prefetch(coming + CACHE_LINE * line)
                coming += CACHE_LINE * lines
        tile_store(total, out, stride)

    return tile_float


def _scaled(format_: Format, columns: int) -> Tile:
    """d * (q - offset) or d * table[q], where d may be d * s of a block."""
    low, high, table, scales = format_.low_bits, format_.high_bits, format_.table, format_.scales
    shift = -format_.offset
    exponent = format_.scale_bytes == 1
    unit_blocks, head_bytes, scales_start = format_.unit_blocks, format_.head_bytes, format_.scales_start
    block_bytes, scales_bytes = format_.block_bytes, ROWS * format_.scales
    x_bytes, wide = INTEGER_BYTES * columns, min(columns, format_.most_columns)
    lines = format_.block_bytes // CACHE_LINE * wide // columns  # of what is ahead, per block: as many as are read
    x_sum_128, x_halves = (SUM_128 - SCALE) * columns, (HALF_SUMS - SCALE) * columns

    def tile_scaled(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int) -> None:
        for first_column in range(0, columns, wide):
            total = tile_zero(wide)
            weights = panel + blocks // unit_blocks * head_bytes
            x, fields = group + VALUES_BYTES * first_column, group + SCALE * columns + FIELD_BYTES * first_column
            if columns < AHEAD_COLUMNS:
                ahead = weights + DISTANCE
            for unit in range(blocks // unit_blocks):
                place = panel + head_bytes * unit
                d = load_e8m0x16(place) if exponent else load_f16x16(place)
                for block in range(unit_blocks):
                    small = place + scales_start + scales_bytes * block
                    scale = mul(d, load_i8x16(small)) if scales else d
                    if shift == -128:
                        dots = tile_load_i32(wide, fields + x_sum_128)
                    else:
                        dots = tile_dot_pairs(wide, shift, shift, fields + x_halves)
                    dots = tile_dot(dots, weights, x, low, high, table, 0, 8)
                    total = tile_add_scaled(total, tile_scale(dots, scale), fields)
                    weights += block_bytes
                    x += x_bytes
                    fields += x_bytes
                    if ahead != 0:
                        for line in range(lines):
                            prefetch(ahead + CACHE_LINE * line)
                        ahead += CACHE_LINE * lines
            tile_store(total, out + stride * first_column, stride)

    return tile_scaled


def _shifted(format_: Format, columns: int) -> Tile:
    """d * q + m, or d * s * q - m * t with s and t of a block."""
    low, high, scales = format_.low_bits, format_.high_bits, format_.scales
    unit_blocks, head_bytes, scales_start = format_.unit_blocks, format_.head_bytes, format_.scales_start
    block_bytes, scales_bytes = format_.block_bytes, ROWS * format_.scales
    x_bytes, wide = INTEGER_BYTES * columns, min(columns, format_.most_columns)
    lines = format_.block_bytes // CACHE_LINE * wide // columns  # of what is ahead, per block: as many as are read
    x_sum = (SUM - SCALE) * columns

    def tile_shifted(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int) -> None:
        for first_column in range(0, columns, wide):
            total = tile_zero(wide)
            weights = panel + blocks // unit_blocks * head_bytes
            x, fields = group + VALUES_BYTES * first_column, group + SCALE * columns + FIELD_BYTES * first_column
            if columns < AHEAD_COLUMNS:
                ahead = weights + DISTANCE
            for unit in range(blocks // unit_blocks):
                place = panel + head_bytes * unit
                d, m = load_f16x16(place), load_f16x16(place + 2 * ROWS)
                if scales:
                    m = negate(m)
                for block in range(unit_blocks):
                    small = place + scales_start + scales_bytes * block
                    scale = mul(d, load_u8x16(small)) if scales else d
                    minimum = mul(m, load_u8x16(small + ROWS)) if scales else m
                    dots = tile_dot(tile_zero_i32(wide), weights, x, low, high, 0, 0, 8)
                    part = tile_fma(tile_scale(dots, scale), minimum, fields + x_sum, 4)
                    total = tile_add_scaled(total, part, fields)
                    weights += block_bytes
                    x += x_bytes
                    fields += x_bytes
                    if ahead != 0:
                        for line in range(lines):
                            prefetch(ahead + CACHE_LINE * line)
                        ahead += CACHE_LINE * lines
            tile_store(total, out + stride * first_column, stride)

    return tile_shifted


def _q2_k(format_: Format, columns: int) -> Tile:
    """d * s * q - m * t with s and t of half a block: quants times s are bytes still, and summed as one."""
    head_bytes, scales_start, block_bytes = format_.head_bytes, format_.scales_start, format_.block_bytes
    x_bytes, wide = INTEGER_BYTES * columns, min(columns, format_.most_columns)
    lines = format_.block_bytes // CACHE_LINE * wide // columns  # of what is ahead, per block: as many as are read
    x_halves = (HALF_SUMS - SCALE) * columns

    def tile_q2_k(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int) -> None:
        for first_column in range(0, columns, wide):
            total = tile_zero(wide)
            weights = panel + blocks // 8 * head_bytes
            x, fields = group + VALUES_BYTES * first_column, group + SCALE * columns + FIELD_BYTES * first_column
            if columns < AHEAD_COLUMNS:
                ahead = weights + DISTANCE
            for unit in range(blocks // 8):
                place = panel + head_bytes * unit
                d, m = load_f16x16(place), negate(load_f16x16(place + 2 * ROWS))
                for block in range(8):
                    small = place + scales_start + 2 * ROWS * block
                    both = load_u8_pairs(small)
                    if columns > 2:
                        dots = tile_dot_weighed(tile_zero_i32(wide), weights, x, 2, low_nibbles(both))
                    else:
                        first = tile_dot(tile_zero_i32(wide), weights, x, 2, 0, 0, 0, 4)
                        last = tile_dot(tile_zero_i32(wide), weights, x, 2, 0, 0, 4, 8)
                        dots = tile_weigh_halves(first, last, low_nibbles(both))
                    minima = tile_add_pairs(tile_zero_i32(wide), high_nibbles(both), fields + x_halves)
                    part = tile_add_dots(tile_scale(dots, d), minima, m)
                    total = tile_add_scaled(total, part, fields)
                    weights += block_bytes
                    x += x_bytes
                    fields += x_bytes
                    if ahead != 0:
                        for line in range(lines):
                            prefetch(ahead + CACHE_LINE * line)
                        ahead += CACHE_LINE * lines
            tile_store(total, out + stride * first_column, stride)

    return tile_q2_k


def _q3_k(format_: Format, columns: int) -> Tile:
    """d * s * (q - 4) with s of half a block: the halves' sums fit 16 bits, and are weighed with s as integers."""
    head_bytes, scales_start, block_bytes = format_.head_bytes, format_.scales_start, format_.block_bytes
    x_bytes, wide = INTEGER_BYTES * columns, min(columns, format_.most_columns)
    lines = format_.block_bytes // CACHE_LINE * wide // columns  # of what is ahead, per block: as many as are read
    x_halves = (HALF_SUMS - SCALE) * columns

    def tile_q3_k(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int) -> None:
        for first_column in range(0, columns, wide):
            total = tile_zero(wide)
            weights = panel + blocks // 8 * head_bytes
            x, fields = group + VALUES_BYTES * first_column, group + SCALE * columns + FIELD_BYTES * first_column
            if columns < AHEAD_COLUMNS:
                ahead = weights + DISTANCE
            for unit in range(blocks // 8):
                place = panel + head_bytes * unit
                d = load_f16x16(place)
                for block in range(8):
                    small = place + scales_start + 2 * ROWS * block
                    scales = load_i8_pairs(small)
                    first = tile_dot(tile_zero_i32(wide), weights, x, 2, 1, 0, 0, 4)
                    last = tile_dot(tile_zero_i32(wide), weights, x, 2, 1, 0, 4, 8)
                    dots = tile_weigh_halves(first, last, scales)
                    dots = tile_add_pairs(dots, multiply_words(scales, -4), fields + x_halves)
                    total = tile_add_scaled(total, tile_scale(dots, d), fields)
                    weights += block_bytes
                    x += x_bytes
                    fields += x_bytes
                    if ahead != 0:
                        for line in range(lines):
                            prefetch(ahead + CACHE_LINE * line)
                        ahead += CACHE_LINE * lines
            tile_store(total, out + stride * first_column, stride)

    return tile_q3_k


def _q6_k(format_: Format, columns: int) -> Tile:
    """d * s * (q - 32) with s of half a block."""
    head_bytes, scales_start, block_bytes = format_.head_bytes, format_.scales_start, format_.block_bytes
    x_bytes, wide = INTEGER_BYTES * columns, min(columns, format_.most_columns)
    lines = format_.block_bytes // CACHE_LINE * wide // columns  # of what is ahead, per block: as many as are read
    x_halves = (HALF_SUMS - SCALE) * columns

    def tile_q6_k(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int) -> None:
        for first_column in range(0, columns, wide):
            total = tile_zero(wide)
            weights = panel + blocks // 8 * head_bytes
            x, fields = group + VALUES_BYTES * first_column, group + SCALE * columns + FIELD_BYTES * first_column
            if columns < AHEAD_COLUMNS:
                ahead = weights + DISTANCE
            for unit in range(blocks // 8):
                place = panel + head_bytes * unit
                d = load_f16x16(place)
                for block in range(8):
                    small = place + scales_start + 2 * ROWS * block
                    first = tile_dot_pairs(wide, -32, 0, fields + x_halves)
                    last = tile_dot_pairs(wide, 0, -32, fields + x_halves)
                    first = tile_dot(first, weights, x, 4, 2, 0, 0, 4)
                    last = tile_dot(last, weights, x, 4, 2, 0, 4, 8)
                    part = tile_scale(first, mul(d, load_i8x16(small)))
                    part = tile_add_dots(part, last, mul(d, load_i8x16(small + ROWS)))
                    total = tile_add_scaled(total, part, fields)
                    weights += block_bytes
                    x += x_bytes
                    fields += x_bytes
                    if ahead != 0:
                        for line in range(lines):
                            prefetch(ahead + CACHE_LINE * line)
                        ahead += CACHE_LINE * lines
            tile_store(total, out + stride * first_column, stride)

    return tile_q6_k


_BY_MEANING: dict[Meaning, Callable[[Format, int], Tile]] = {
    Meaning.FLOAT: _float,
    Meaning.SCALED: _scaled,
    Meaning.SHIFTED: _shifted,
    Meaning.K_SCALED: _scaled,
    Meaning.K_SHIFTED: _shifted,
}
_BY_NAME = {"Q2_K": _q2_k, "Q3_K": _q3_k, "Q6_K": _q6_k}


def tile_table(formats: Iterable[Format] = FORMATS) -> NDArray[np.uintp]:  # [formats, widths]
    """Compile the tiles of some formats, or load them from the cache.

    [f, w] is the address of the tile of FORMATS[f] and WIDTHS[w] columns, 0 if not asked for.
    """
    table = np.zeros((len(FORMATS), len(WIDTHS)), np.uintp)
    for format_ in formats:
        make = _BY_NAME.get(format_.name, _BY_MEANING[format_.meaning])
        row = [address_of(TILE_SIGNATURE, make(format_, columns)) for columns in WIDTHS]
        table[NUMBERS[format_.name]] = row
    return table


@intrinsic
def run_tile(
    typing_context: Any, address: Any, panel: Any, blocks: Any, group: Any, out: Any, stride: Any, ahead: Any
) -> Any:
    """Call the tile kernel at `address`.

    Group and out are addresses, stride the bytes between columns of out; ahead is a panel that will be read soon, or 0.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [word] * 6)
        builder.call(builder.inttoptr(values[0], function.as_pointer()), list(values[1:]))
        return context.get_dummy_value()

    arguments = (types.uintp, types.uintp, types.intp, types.uintp, types.uintp, types.intp, types.uintp)
    return types.void(*arguments), code
