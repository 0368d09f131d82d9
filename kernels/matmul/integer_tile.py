"""Tiles of the quantised formats, which multiply integers exactly."""

from __future__ import annotations

from numoe.kernels.cpu.arithmetic import mul, negate
from numoe.kernels.cpu.dots import BYTE_PAIRS
from numoe.kernels.cpu.loads import load_e8m0x16, load_f16x16, load_i8x16, load_u8x16, prefetch
from numoe.kernels.cpu.stores import prefetch_write
from numoe.kernels.cpu.words import high_nibbles, load_i8_pairs, load_u8_pairs, low_nibbles, multiply_words
from numoe.kernels.matmul.groups import GROUPS, HALF_SUMS, INTEGER_BYTES, SCALE, SUM, SUM_128, WIDEST
from numoe.kernels.matmul.tile_operations import (
    stack_bytes,
    tile_add_dots,
    tile_add_scaled,
    tile_fma,
    tile_load,
    tile_load_i32,
    tile_scale,
    tile_store,
    tile_zero,
    tile_zero_i32,
)
from numoe.kernels.matmul.tile_products import (
    UNPACKED_BYTES,
    tile_add_pairs,
    tile_dot,
    tile_dot_halves,
    tile_dot_pairs,
    tile_dot_weighed,
    tile_unpack,
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
    weigh = int(kind == Q2_K and columns > 2 and not BYTE_PAIRS)
    exponent = format_.scale_bytes == 1
    unit_blocks, head_bytes, scales_start = format_.unit_blocks, format_.head_bytes, format_.scales_start
    together = format_.units_together
    block_bytes, scales_bytes = format_.block_bytes, ROWS * format_.scales
    x_bytes = INTEGER_BYTES * columns
    wide = columns if columns <= format_.most_columns else columns // 2
    passes = columns // wide
    unpacks = int(GROUPS > 1 and columns == WIDEST and low < 8 and not weigh)  # once for each block of all groups
    totals_bytes = 4 * ROWS * columns
    most_totals_bytes = GROUPS * totals_bytes
    unit_bytes = format_.panel_unit_bytes
    lines = -(-unit_bytes // (unit_blocks * CACHE_LINE))

    def tile_integer(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int, groups: int) -> None:
        units, group_bytes = blocks // unit_blocks, x_bytes * blocks
        distance = ahead - panel if ahead != 0 else 0
        if columns < AHEAD_COLUMNS:
            distance = DISTANCE
        for column in range(columns * groups):  # rows of large outputs are far apart, and stores wait for their lines
            prefetch_write(out + stride * column)
        turns, at_once, quants = passes * groups, 1, panel  # over the panel, and groups in each
        if unpacks:
            turns, at_once = 1, groups
            quants = stack_bytes(UNPACKED_BYTES)
            totals = stack_bytes(most_totals_bytes)
            for own in range(groups):
                tile_store(tile_zero(columns), totals + totals_bytes * own, 4 * ROWS)
        for turn in range(turns):
            total = tile_zero(wide)
            head = weights = panel
            first_x = group + group_bytes * (turn // passes) + INTEGER_BYTES * wide * (turn % passes)
            for unit in range(units):
                if unit % together == 0:
                    head, weights = weights, weights + head_bytes * min(together, units - unit)
                d = load_e8m0x16(head) if exponent else load_f16x16(head)
                m = load_f16x16(head + 2 * ROWS) if shifted else d
                for block in range(unit_blocks):
                    small = head + scales_start + scales_bytes * block
                    if kind == Q2_K:
                        both = load_u8_pairs(small)
                    elif kind == Q3_K:
                        pairs = load_i8_pairs(small)
                        offsets = multiply_words(pairs, shift)
                    elif kind == Q6_K:
                        scale, last_scale = mul(d, load_i8x16(small)), mul(d, load_i8x16(small + ROWS))
                    elif shifted:
                        scale = mul(d, load_u8x16(small)) if scales else d
                        minimum = mul(negate(m), load_u8x16(small + ROWS)) if scales else m
                    else:
                        scale = mul(d, load_i8x16(small)) if scales else d
                    if unpacks:
                        tile_unpack(weights, quants, low, high, table)
                    else:
                        quants = weights
                    for own in range(at_once):
                        x = first_x + x_bytes * (unit_blocks * unit + block) + group_bytes * own
                        if unpacks:
                            total = tile_load(wide, totals + totals_bytes * own)
                        if kind == Q2_K:
                            if weigh:
                                dots = tile_dot_weighed(wide, quants, x, low, low_nibbles(both))
                            else:
                                dots = tile_dot_halves(wide, quants, x, low, 0, unpacks, low_nibbles(both))
                            minima = tile_add_pairs(tile_zero_i32(wide), high_nibbles(both), x + HALF_SUMS)
                            part = tile_add_dots(tile_scale(dots, d), minima, negate(m))
                        elif kind == Q3_K:
                            dots = tile_dot_halves(wide, quants, x, low, high, unpacks, pairs)
                            part = tile_scale(tile_add_pairs(dots, offsets, x + HALF_SUMS), d)
                        elif kind == Q6_K:
                            dots = tile_dot_pairs(wide, shift, 0, x + HALF_SUMS)
                            part = tile_scale(tile_dot(dots, quants, x, low, high, 0, unpacks, 0, 4), scale)
                            dots = tile_dot_pairs(wide, 0, shift, x + HALF_SUMS)
                            dots = tile_dot(dots, quants, x, low, high, 0, unpacks, 4, 8)
                            part = tile_add_dots(part, dots, last_scale)
                        elif shifted:
                            dots = tile_dot(tile_zero_i32(wide), quants, x, low, high, 0, unpacks, 0, 8)
                            part = tile_fma(tile_scale(dots, scale), minimum, x + SUM, INTEGER_BYTES)
                        else:
                            if shift == -128 and signed:
                                dots = tile_zero_i32(wide)
                            elif shift == -128:
                                dots = tile_load_i32(wide, x + SUM_128)
                            else:
                                dots = tile_dot_pairs(wide, shift, shift, x + HALF_SUMS)
                            part = tile_scale(tile_dot(dots, quants, x, low, high, table, unpacks, 0, 8), scale)
                        total = tile_add_scaled(total, part, x + SCALE)
                        if unpacks:
                            tile_store(total, totals + totals_bytes * own, 4 * ROWS)
                    if distance != 0:
                        for line in range(lines * block, lines * block + lines):
                            prefetch(panel + unit_bytes * unit + distance + CACHE_LINE * line)
                    weights += block_bytes
                head += head_bytes
            for own in range(at_once):
                if unpacks:
                    total = tile_load(wide, totals + totals_bytes * own)
                tile_store(total, out + stride * wide * (turn + own), stride)
            distance = 0

    return tile_integer
