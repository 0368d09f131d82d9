"""Tiles of the values of a Q8_0 cache: 16 dimensions of some positions times C columns of weights, in integers.

The weights of a column are its probabilities times the positions' scales, rounded to 15 bits of the block's largest
scale. They are words, in a *word group*: one float, which a sum of products is to be multiplied with, then per 32
positions [C][32] words.

*Rejected*: weights of 7 bits, which would halve the products: see DESIGN.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.kv_operations import PART_BYTES, tile_add_i32, tile_dot_words
from numoe.kernels.cpu.arithmetic import splat
from numoe.kernels.cpu.jit import address_of
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


def _value_tile(columns: int) -> TileKernel:
    def tile_values(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int) -> None:
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
    """The tiles of some formats, and if asked for, as a last row those of this file."""
    table = np.zeros((len(FORMATS) + 1, len(WIDTHS)), np.uintp)
    table[:VALUE_TILE] = tile_table(formats)
    if values:
        table[VALUE_TILE] = [
            address_of(TILE_SIGNATURE, _value_tile(columns)) if columns <= MOST_COLUMNS else 0 for columns in WIDTHS
        ]
    return table
