"""Tiles of the quantised formats, which multiply integers exactly."""

from __future__ import annotations

from numoe.kernels.cpu.arithmetic import mul, negate
from numoe.kernels.cpu.dots import BYTE_PAIRS
from numoe.kernels.cpu.loads import load_e8m0x16, load_f16x16, load_i8x16, load_u8x16, prefetch
from numoe.kernels.cpu.stores import prefetch_write
from numoe.kernels.cpu.words import high_nibbles, load_i8_pairs, load_u8_pairs, low_nibbles, multiply_words
from numoe.kernels.matmul.groups import HALF_SUMS, INTEGER_BYTES, SCALE, SUM, SUM_128
from numoe.kernels.matmul.tile_operations import (
    tile_add_dots,
    tile_add_scaled,
    tile_fma,
    tile_load_i32,
    tile_scale,
    tile_store,
    tile_zero,
    tile_zero_i32,
)
from numoe.kernels.matmul.tile_products import (
    tile_add_pairs,
    tile_dot,
    tile_dot_halves,
    tile_dot_pairs,
    tile_dot_weighed,
)
from numoe.kernels.matmul.tiles import AHEAD_COLUMNS, DISTANCE, TileKernel
from numoe.kernels.weights.formats import CACHE_LINE, ROWS, Format, Meaning

WHOLE, Q2_K, Q3_K, Q6_K = range(4)  # what small scales belong to: a block, or halves of one in three ways
_KINDS = {"Q2_K": Q2_K, "Q3_K": Q3_K, "Q6_K": Q6_K}


def make_integer_tile(format_: Format, columns: int) -> TileKernel:
    """A kernel of `columns` columns.

    Per block it adds d * s * dots, with s of the block or of its halves, less an offset or a minimum.

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
    signed = int(BYTE_PAIRS)  # what is kept plus 128 is multiplied as what it means
    weigh = int(columns > 2 and not BYTE_PAIRS)
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
                        if weigh:
                            dots = tile_dot_weighed(wide, weights, x, low, low_nibbles(both))
                        else:
                            dots = tile_dot_halves(wide, weights, x, low, 0, low_nibbles(both))
                        minima = tile_add_pairs(tile_zero_i32(wide), high_nibbles(both), x + HALF_SUMS)
                        part = tile_add_dots(tile_scale(dots, d), minima, negate(m))
                    elif kind == Q3_K:
                        pairs = load_i8_pairs(small)
                        dots = tile_dot_halves(wide, weights, x, low, high, pairs)
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
                        if shift == -128 and signed:
                            dots = tile_zero_i32(wide)
                        elif shift == -128:
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
