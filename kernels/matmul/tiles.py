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

from numoe.kernels.cpu.arithmetic import mul, negate
from numoe.kernels.cpu.jit import address_of
from numoe.kernels.cpu.loads import (
    load_bf16x16,
    load_e8m0x16,
    load_f16x16,
    load_f32x16,
    load_i8x16,
    load_u8x16,
    prefetch,
)
from numoe.kernels.cpu.stores import prefetch_write
from numoe.kernels.cpu.words import high_nibbles, load_i8_pairs, load_u8_pairs, low_nibbles, multiply_words
from numoe.kernels.matmul.groups import FLOAT_BYTES, HALF_SUMS, INTEGER_BYTES, SCALE, SUM, SUM_128, WIDTHS
from numoe.kernels.matmul.tile_operations import (
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
from numoe.kernels.weights.formats import BLOCK, CACHE_LINE, F16_TILE, F32_TILE, FORMATS, NUMBERS, ROWS, Format, Meaning

# Tiles at least so wide ask for the panel they are told, narrower ones for what lies so many bytes further on. Both ask
# for line after line in the order of memory, at the pace at which they read their own: the CPU's own prefetching brings
# half of what memory gives, and it helps only those who ask in order. One column reads 97 % of what a core can read at
# all so, in every format; 78 % where it asked for quants and heads as it came to them.
AHEAD_COLUMNS = 8
DISTANCE = 8192


Tile = Callable[..., None]  # (panel, blocks, group, out, stride, ahead)
# Addresses are signed here: to Numba the sum of an unsigned and a signed number is a float.
TILE_SIGNATURE = types.void(*[types.intp] * 6)

WHOLE, Q2_K, Q3_K, Q6_K = range(4)  # what small scales belong to: a block, or halves of one in three ways
_KINDS = {"Q2_K": Q2_K, "Q3_K": Q3_K, "Q6_K": Q6_K}

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
        if columns < AHEAD_COLUMNS:
            ahead = panel + DISTANCE
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
            if ahead != 0:
                for line in range(lines):
                    prefetch(ahead + CACHE_LINE * line)
                ahead += CACHE_LINE * lines
        tile_store(total, out, stride)

    return tile_float


def _integer(format_: Format, columns: int) -> Tile:
    """Per block d * s * dots, with s of the block or of its halves, less an offset or a minimum.

    Q8_0 Q4_0 IQ4_NL ..   d * (q - offset), or d * table[q], where d may be d * s
    Q4_1 Q5_1 Q4_K Q5_K   d * q + m, or d * s * q - m * t
    Q2_K                  d * s * q - m * t of halves: quants times s are bytes still, and summed as one
    Q3_K                  d * s * (q - 4) of halves, whose sums fit 16 bits, and are weighed with s as integers
    Q6_K                  d * s * (q - 32) of halves, whose sums do not
    """
    kind = _KINDS.get(format_.name, WHOLE)
    shifted = format_.meaning in (Meaning.SHIFTED, Meaning.K_SHIFTED)
    low, high, table, scales = format_.low_bits, format_.high_bits, format_.table, format_.scales
    shift = -format_.offset
    exponent = format_.scale_bytes == 1
    unit_blocks, head_bytes, scales_start = format_.unit_blocks, format_.head_bytes, format_.scales_start
    together = format_.units_together
    block_bytes, scales_bytes = format_.block_bytes, ROWS * format_.scales
    x_bytes = INTEGER_BYTES * columns
    wide = columns if columns <= format_.most_columns else columns // 2
    unit_bytes = format_.panel_unit_bytes
    lines = -(-unit_bytes // (unit_blocks * CACHE_LINE))

    def tile_integer(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int) -> None:
        units = blocks // unit_blocks
        distance = ahead - panel if ahead != 0 else 0
        if columns < AHEAD_COLUMNS:
            distance = DISTANCE
        for column in range(columns):  # rows of large outputs are far apart, and stores wait for their lines
            prefetch_write(out + stride * column)
        for first_column in range(0, columns, wide):
            total = tile_zero(wide)
            head = weights = panel
            x = group + INTEGER_BYTES * first_column
            for unit in range(units):
                if unit % together == 0:
                    head, weights = weights, weights + head_bytes * min(together, units - unit)
                d = load_e8m0x16(head) if exponent else load_f16x16(head)
                m = load_f16x16(head + 2 * ROWS) if shifted else d
                for block in range(unit_blocks):
                    small = head + scales_start + scales_bytes * block
                    if kind == Q2_K:
                        both = load_u8_pairs(small)
                        if columns > 2:
                            dots = tile_dot_weighed(tile_zero_i32(wide), weights, x, low, low_nibbles(both))
                        else:
                            first = tile_dot(tile_zero_i32(wide), weights, x, low, 0, 0, 0, 4)
                            last = tile_dot(tile_zero_i32(wide), weights, x, low, 0, 0, 4, 8)
                            dots = tile_weigh_halves(first, last, low_nibbles(both))
                        minima = tile_add_pairs(tile_zero_i32(wide), high_nibbles(both), x + HALF_SUMS)
                        part = tile_add_dots(tile_scale(dots, d), minima, negate(m))
                    elif kind == Q3_K:
                        pairs = load_i8_pairs(small)
                        first = tile_dot(tile_zero_i32(wide), weights, x, low, high, 0, 0, 4)
                        last = tile_dot(tile_zero_i32(wide), weights, x, low, high, 0, 4, 8)
                        dots = tile_weigh_halves(first, last, pairs)
                        dots = tile_add_pairs(dots, multiply_words(pairs, shift), x + HALF_SUMS)
                        part = tile_scale(dots, d)
                    elif kind == Q6_K:
                        dots = tile_dot_pairs(wide, shift, 0, x + HALF_SUMS)
                        dots = tile_dot(dots, weights, x, low, high, 0, 0, 4)
                        part = tile_scale(dots, mul(d, load_i8x16(small)))
                        dots = tile_dot_pairs(wide, 0, shift, x + HALF_SUMS)
                        dots = tile_dot(dots, weights, x, low, high, 0, 4, 8)
                        part = tile_add_dots(part, dots, mul(d, load_i8x16(small + ROWS)))
                    elif shifted:
                        scale = mul(d, load_u8x16(small)) if scales else d
                        minimum = mul(negate(m), load_u8x16(small + ROWS)) if scales else m
                        dots = tile_dot(tile_zero_i32(wide), weights, x, low, high, 0, 0, 8)
                        part = tile_fma(tile_scale(dots, scale), minimum, x + SUM, INTEGER_BYTES)
                    else:
                        if shift == -128:
                            dots = tile_load_i32(wide, x + SUM_128)
                        else:
                            dots = tile_dot_pairs(wide, shift, shift, x + HALF_SUMS)
                        dots = tile_dot(dots, weights, x, low, high, table, 0, 8)
                        part = tile_scale(dots, mul(d, load_i8x16(small)) if scales else d)
                    total = tile_add_scaled(total, part, x + SCALE)
                    if distance != 0:
                        for line in range(lines * block, lines * block + lines):
                            prefetch(panel + unit_bytes * unit + distance + CACHE_LINE * line)
                    weights += block_bytes
                    x += x_bytes
                head += head_bytes
            tile_store(total, out + stride * first_column, stride)
            distance = 0

    return tile_integer


def tile_table(formats: Iterable[Format] = FORMATS) -> NDArray[np.uintp]:  # [formats, widths]
    """Compile the tiles of some formats, or load them from the cache.

    [f, w] is the address of the tile of FORMATS[f] and WIDTHS[w] columns, 0 if not asked for.
    """
    table = np.zeros((len(FORMATS), len(WIDTHS)), np.uintp)
    for format_ in formats:
        make = _integer if format_.integer else _float
        table[NUMBERS[format_.name]] = [address_of(TILE_SIGNATURE, make(format_, columns)) for columns in WIDTHS]
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
