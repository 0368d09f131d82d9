"""Tiles of the values of a Q8_0 cache: 16 dimensions of some positions times C columns of weights, in integers.

The weights of a column are its probabilities times the positions' scales, rounded to 15 bits of the block's largest
scale. They are words, in a *word group*: one float, which a sum of products is to be multiplied with, then per 32
positions [C][32] words.

*Rejected*: weights of 7 bits, which would halve the products: see DESIGN.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from numoe.kernels.attention.kv_stores import PART_BYTES
from numoe.kernels.cpu.arithmetic import splat
from numoe.kernels.cpu.dots import dot2
from numoe.kernels.cpu.jit import address_of
from numoe.kernels.cpu.llvm import V16I32, V32I16, V64U8, load_splat, offset, pointer
from numoe.kernels.cpu.loads import load_f32, prefetch
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.matmul.tile_operations import tile_scale, tile_store, tile_zero_i32
from numoe.kernels.matmul.tile_table import tile_table
from numoe.kernels.matmul.tiles import TILE_SIGNATURE, TileKernel
from numoe.kernels.weights.formats import FORMATS, Format

VALUE_TILE = len(FORMATS)  # its row in the table of tiles, after those of all formats
MOST_COLUMNS = 8  # of a tile in attention
WORD_GROUP_HEAD = 64
COLUMN_BYTES = 64  # of 32 positions
_PARTS = 8  # of 32 positions


@intrinsic(prefer_literal=True)
def tile_dot_words(typing_context: Any, tile: Any, part: Any, words: Any, stride: Any, half: Any) -> Any:
    """tile[c] += half of the products of a part's 4 signed bytes per lane with 4 words at `words` + c * stride, exact.

    The words are in order; the bytes are those of 0, 2, 1, 3. Half 0 takes the first two words, half 1 the others.
    """
    step, upper = stride.literal_value, half.literal_value

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, place, x = values[:3]
        eight = ir.Constant(V32I16, [8] * 32)
        both = builder.bitcast(builder.load(pointer(builder, place, V64U8), align=1), V32I16)
        pairs = builder.bitcast(builder.ashr(both if upper else builder.shl(both, eight), eight), V16I32)
        for column in range(tile.columns):
            weights = load_splat(builder, offset(builder, x, step * column + 4 * upper), V16I32)
            total = dot2(builder, builder.extract_value(sums, column), pairs, weights)
            sums = builder.insert_value(sums, total, column)
        return sums

    return tile(tile, types.uintp, types.uintp, stride, half), code


@intrinsic
def tile_add_i32(typing_context: Any, tile: Any, other: Any) -> Any:
    """tile + other"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        total = values[0]
        for column in range(tile.columns):
            both = (builder.extract_value(one, column) for one in values)
            total = builder.insert_value(total, builder.add(*both), column)
        return total

    return tile(tile, other), code


def _make_value_tile(columns: int) -> TileKernel:
    """A kernel of `columns` columns."""

    def tile_values(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int, groups: int) -> None:
        first, last = tile_zero_i32(columns), tile_zero_i32(columns)
        # Numba makes floating-point numbers of sums of unsigned and signed ones.
        place, words, coming = np.int64(panel), np.int64(group) + WORD_GROUP_HEAD, np.int64(ahead)
        for _ in range(blocks):
            for part in range(_PARTS):
                first = tile_dot_words(first, place, words + 8 * part, COLUMN_BYTES, 0)
                last = tile_dot_words(last, place, words + 8 * part, COLUMN_BYTES, 1)
                place += PART_BYTES
                if coming != 0:
                    prefetch(coming)
                    coming += PART_BYTES
            words += columns * COLUMN_BYTES
        tile_store(tile_scale(tile_add_i32(first, last), splat(load_f32(group))), out, stride)

    return tile_values


def attention_tiles(formats: Iterable[Format], *, values: bool) -> NDArray[np.uintp]:  # [formats + 1, widths]
    """The tiles of some formats, and as a last row those of this file, if asked for."""
    table = np.zeros((len(FORMATS) + 1, len(WIDTHS)), np.uintp)
    table[:VALUE_TILE] = tile_table(formats)
    if values:
        table[VALUE_TILE] = [
            address_of(TILE_SIGNATURE, _make_value_tile(columns)) if columns <= MOST_COLUMNS else 0
            for columns in WIDTHS
        ]
    return table
