"""Grouped-query attention over a paged KV cache (kv_cache.py), in pieces of a fixed size, merged in a fixed order.

The columns of a tile are query heads that share a KV head, at one position. PIECE positions make a piece: its scores,
their maximum, then exp(score - maximum) times the values, block by block. Pieces are merged in order with a running
maximum (Milakov & Gimelshein 2018; FlashAttention). So a position's result is the same in prefill and decode, in any
chunk and whoever computes the pieces. Blocks past a position are skipped. In its last block the scores past it are
masked to -inf, whose exp is exactly 0, and the values that the cache holds there are finite. So nothing that another
sequence left there can show.

Where keys are integers, so are the queries, rounded once per token and group of 32 values; the weights of the values
are then rounded as value_tile.py says.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.kv_cache import KV_BLOCK, Q8_0, key_panel, kv_half_bytes, value_panel
from numoe.kernels.attention.scratch import MOST_HEADS, PIECE, PIECE_BLOCKS, ROW_HEAD, WORD_GROUP_BYTES, Scratch
from numoe.kernels.attention.value_tile import COLUMN_BYTES, VALUE_TILE
from numoe.kernels.attention.value_weights import scale_words, weigh, weigh_words
from numoe.kernels.cpu.arithmetic import add, lane_numbers, max_lanes, maximum, splat, sum_lanes, where_less
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32, load_f32x16
from numoe.kernels.cpu.stores import store_f32, store_f32x16
from numoe.kernels.matmul.activations import write_column
from numoe.kernels.matmul.column_groups import width_over
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.matmul.tiles import run_tile
from numoe.kernels.records import TileTable

_MINUS_INFINITY = np.float32(-np.inf)
_ZERO = np.float32(0.0)


class CachedHead(NamedTuple):
    """Keys and values of one KV head of one layer."""

    blocks: int  # address of block 0
    stride: int  # bytes from one block id to the next
    key_format: int  # of kv_cache.py
    value_format: int
    size: int  # K


@kernel
def pieces_of(position: int) -> int:
    """How many pieces a position sees."""
    return position // PIECE + 1


@kernel
def write_queries(out: int, queries: int, heads: int, key_format: int, size: int) -> None:
    """Write queries [heads, K] float32 as groups of MOST_HEADS, of the kind that the keys' tile reads."""
    for first in range(0, heads, MOST_HEADS):
        used = min(heads - first, MOST_HEADS)
        columns, group = WIDTHS[width_over(used)], out + 4 * size * first
        for column in range(used):
            query = queries + 4 * size * (first + column)
            write_column(group, columns, column, query, size // 32, key_format == Q8_0)


@kernel
def _score(
    tile: int, cached: CachedHead, table: NDArray[np.int32], first: int, seen: int, queries: int, scores: int
) -> None:
    """Compute q k^T of the first `seen` positions from block `first` of the table on: [columns, PIECE]."""
    blocks, half = (seen + KV_BLOCK - 1) // KV_BLOCK, kv_half_bytes(cached.size, cached.key_format)
    for index in range(blocks):
        kv_block = cached.blocks + table[first + index] * cached.stride
        if index + 1 < blocks:
            coming = cached.blocks + table[first + index + 1] * cached.stride
        else:
            coming = cached.blocks + table[first] * cached.stride + half
        for part in range((min(seen - KV_BLOCK * index, KV_BLOCK) + 15) // 16):
            panel = key_panel(kv_block, part, cached.size, cached.key_format)
            place = scores + 4 * (KV_BLOCK * index + 16 * part)
            run_tile(tile, panel, cached.size // 32, queries, place, 4 * PIECE, coming + panel - kv_block, 1)


@kernel
def _largest(scores: int, seen: int) -> np.float32:
    """The largest of the first `seen` scores; those after them become -inf, as far as 32 are read at once."""
    for part in range(seen // 16, (seen + 31) // 32 * 2):
        limit, place = splat(np.float32(seen - 16 * part)), scores + 64 * part
        store_f32x16(place, where_less(lane_numbers(), limit, load_f32x16(place), splat(_MINUS_INFINITY)))
    highest = splat(_MINUS_INFINITY)
    for part in range((seen + 15) // 16):
        highest = maximum(load_f32x16(scores + 64 * part), highest)
    return max_lanes(highest)


@kernel
def _add_values(
    tile: int,
    cached: CachedHead,
    values: int,  # address of a KV block's
    spans: int,
    ahead: int,
    used: int,
    fresh: bool,
    scratch: Scratch,
    rows: int,
) -> None:
    """Multiply a block's weights by its values, and add that to the rows' output; fresh rows are overwritten."""
    size, row_bytes = cached.size, 4 * (ROW_HEAD + cached.size)
    start = value_panel(values, 0, size, cached.value_format)
    for index in range(size // 16):
        panel = value_panel(values, index, size, cached.value_format)
        group = scratch.weights
        if cached.value_format == Q8_0:
            group += index // 2 * WORD_GROUP_BYTES
        run_tile(tile, panel, spans, group, scratch.product + 64 * index, 4 * size, ahead + panel - start, 1)
    for column in range(used):
        source, out = scratch.product + 4 * size * column, rows + row_bytes * column + 4 * ROW_HEAD
        for value in range(0, 4 * size, 64):
            product = load_f32x16(source + value)
            if not fresh:
                product = add(load_f32x16(out + value), product)
            store_f32x16(out + value, product)


@kernel
def attend_piece(
    tiles: TileTable,
    width: int,  # index of the tile's width in WIDTHS
    used: int,  # query heads, <= columns of the tile
    queries: int,  # address of their group
    cached: CachedHead,
    table: NDArray[np.int32],  # block ids of the sequence
    position: int,  # the queries' position: 0 .. position are seen
    piece: int,
    rows: int,  # [used] rows, written
    scratch: Scratch,
) -> None:
    """Attention of the query heads of one position that share a KV head, over one piece of what they see."""
    columns, first, row_bytes = WIDTHS[width], PIECE_BLOCKS * piece, 4 * (ROW_HEAD + cached.size)
    seen = min(position + 1 - PIECE * piece, PIECE)
    value_tile = tiles[VALUE_TILE if cached.value_format == Q8_0 else cached.value_format, width]
    _score(tiles[cached.key_format, width], cached, table, first, seen, queries, scratch.scores)
    for column in range(used):
        store_f32(rows + row_bytes * column, _largest(scratch.scores + 4 * PIECE * column, seen))
        store_f32x16(scratch.sums + 64 * column, splat(_ZERO))
    keys_bytes = kv_half_bytes(cached.size, cached.key_format)
    for index in range((seen + KV_BLOCK - 1) // KV_BLOCK):
        values = cached.blocks + table[first + index] * cached.stride + keys_bytes
        valid = min(seen - KV_BLOCK * index, KV_BLOCK)
        spans = (valid + 31) // 32
        if cached.value_format == Q8_0:
            scale_words(values, valid, spans, cached.size, scratch.weights, scratch.scales)
        for column in range(used):
            scores, sums = scratch.scores + 4 * (PIECE * column + KV_BLOCK * index), scratch.sums + 64 * column
            largest = load_f32(rows + row_bytes * column)
            if cached.value_format == Q8_0:
                group = scratch.weights + COLUMN_BYTES * column
                weigh_words(scores, largest, sums, spans, columns, group, scratch.scales, cached.size)
            else:
                weigh(scores, largest, sums, spans, columns, scratch.weights + 128 * column)
        ahead = 0
        if KV_BLOCK * (index + 1) < seen:
            coming = cached.blocks + table[first + index + 1] * cached.stride + keys_bytes
            ahead = value_panel(coming, 0, cached.size, cached.value_format)
        elif position >= PIECE * (piece + 1):
            ahead = cached.blocks + table[first + PIECE_BLOCKS] * cached.stride
        _add_values(value_tile, cached, values, spans, ahead, used, index == 0, scratch, rows)
    for column in range(used):
        store_f32(rows + row_bytes * column + 4, sum_lanes(load_f32x16(scratch.sums + 64 * column)))
