"""Grouped-query attention over a paged KV cache (kv_cache.py), in fixed-size pieces merged in a fixed order.

The columns of a tile are query heads that share a KV head, at one position. PIECE positions make a piece: its scores,
their maximum, then exp(score - maximum) times the values, block by block. Pieces are merged in order with a running
maximum (Milakov & Gimelshein 2018; FlashAttention). A position's result is so the same in prefill and decode, in any
chunk and whoever computes the pieces. Blocks past a position are skipped. In its last block the scores past it are
masked to -inf, whose exp is exactly 0, and what the cache holds there is finite. So nothing that another sequence left
there can show.

Where keys are integers, so are the queries, rounded once per token and group of 32 values; the weights of the values
are then rounded as value_tile.py says.

    row of a piece and head    [16] maximum, sum (rest unused) | [K] output, float32
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.kv_cache import BLOCK, Q8_0, key_panel, kv_half_bytes, value_panel, value_scales
from numoe.kernels.attention.kv_operations import store_words
from numoe.kernels.attention.value_tile import COLUMN_BYTES, MOST_COLUMNS, VALUE_TILE, WORD_GROUP_HEAD
from numoe.kernels.cpu.arithmetic import (
    add,
    fma,
    lane_numbers,
    max_lanes,
    maximum,
    mul,
    round_even,
    splat,
    sub,
    sum_lanes,
    where_less,
)
from numoe.kernels.cpu.functions import exp, exp_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f16x16, load_f32, load_f32x16
from numoe.kernels.cpu.stores import store_f32, store_f32x16
from numoe.kernels.matmul.activations import write_column
from numoe.kernels.matmul.column_groups import width_over
from numoe.kernels.matmul.groups import WIDEST, WIDTHS
from numoe.kernels.matmul.tiles import run_tile
from numoe.kernels.records import TileTable

MOST_HEADS = min(MOST_COLUMNS, WIDEST)  # query heads of a tile
PIECE_BLOCKS = 8  # 512 positions: long enough that merging costs nothing, short enough to share out a 16k context
PIECE = PIECE_BLOCKS * BLOCK
ROW_HEAD = 16  # floats of a row before the output
MOST_WORD = np.float32(32767.0)

_MINUS_INFINITY = np.float32(-np.inf)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_WORD_GROUP_BYTES = WORD_GROUP_HEAD + BLOCK // 32 * MOST_HEADS * COLUMN_BYTES


class CachedHead(NamedTuple):
    """Keys and values of one KV head of one layer."""

    blocks: int  # address of block 0
    stride: int  # bytes from one block id to the next
    format: int  # of kv_cache.py
    size: int  # K


def row_floats(head_size: int) -> int:
    """Of a piece and head."""
    return ROW_HEAD + head_size


class Scratch(NamedTuple):
    """Addresses in a thread's scratch."""

    states: int  # [heads] rows' heads: maximum and sum so far
    queries: int  # groups of MOST_HEADS heads, one after the other
    rows: int  # [MOST_HEADS] rows of a piece
    sums: int  # [MOST_HEADS, 16] of a piece's weights
    scores: int  # [MOST_HEADS, PIECE]
    weights: int  # of a block's positions: a float group, or a word group per 32 dimensions
    scales: int  # [K / 32, BLOCK] of a block's values
    product: int  # [MOST_HEADS, K] of a block
    end: int


@kernel
def scratch_of(memory: int, size: int, heads: int) -> Scratch:
    """The parts of a thread's scratch at address `memory`, `heads` being the query heads that share a KV head."""
    groups = (heads + MOST_HEADS - 1) // MOST_HEADS * MOST_HEADS
    queries = memory + 4 * ROW_HEAD * groups
    rows = queries + 4 * groups * size
    sums = rows + 4 * MOST_HEADS * (ROW_HEAD + size)
    scores = sums + 4 * MOST_HEADS * 16
    weights = scores + 4 * MOST_HEADS * PIECE
    scales = weights + max(4 * MOST_HEADS * BLOCK, size // 32 * _WORD_GROUP_BYTES)
    product = scales + 4 * size // 32 * BLOCK
    return Scratch(memory, queries, rows, sums, scores, weights, scales, product, product + 4 * MOST_HEADS * size)


def scratch_floats(head_size: int, heads: int) -> int:
    """Of a thread's scratch."""
    return int(scratch_of(0, head_size, heads).end) // 4


@kernel
def pieces_of(position: int) -> int:
    """Pieces that a position sees."""
    return position // PIECE + 1


@kernel
def write_queries(out: int, queries: int, heads: int, kv_format: int, size: int) -> None:
    """Queries [heads, K] float32 as groups of MOST_HEADS, of the kind that the keys' tile reads."""
    for first in range(0, heads, MOST_HEADS):
        used = min(heads - first, MOST_HEADS)
        columns, group = WIDTHS[width_over(used)], out + 4 * size * first
        for column in range(used):
            query = queries + 4 * size * (first + column)
            write_column(group, columns, column, query, size // 32, kv_format == Q8_0)


@kernel
def _score(
    tile: int, cached: CachedHead, table: NDArray[np.int32], first: int, seen: int, queries: int, scores: int
) -> None:
    """q k^T of the first `seen` positions from block `first` of the table on: [columns, PIECE]."""
    blocks, half = (seen + BLOCK - 1) // BLOCK, kv_half_bytes(cached.size, cached.format)
    for index in range(blocks):
        block = cached.blocks + table[first + index] * cached.stride
        if index + 1 < blocks:
            coming = cached.blocks + table[first + index + 1] * cached.stride
        else:
            coming = cached.blocks + table[first] * cached.stride + half
        for part in range((min(seen - BLOCK * index, BLOCK) + 15) // 16):
            panel = key_panel(block, part, cached.size, cached.format)
            place = scores + 4 * (BLOCK * index + 16 * part)
            run_tile(tile, panel, cached.size // 32, queries, place, 4 * PIECE, coming + panel - block)


@kernel
def _largest(scores: int, seen: int) -> np.float32:
    """Of the first `seen` scores; those after them become -inf, as far as 32 are read at once."""
    for part in range(seen // 16, (seen + 31) // 32 * 2):
        limit, place = splat(np.float32(seen - 16 * part)), scores + 64 * part
        store_f32x16(place, where_less(lane_numbers(), limit, load_f32x16(place), splat(_MINUS_INFINITY)))
    highest = splat(_MINUS_INFINITY)
    for part in range((seen + 15) // 16):
        highest = maximum(load_f32x16(scores + 64 * part), highest)
    return max_lanes(highest)


@kernel
def _weigh(scores: int, largest: np.float32, sums: int, spans: int, columns: int, group: int) -> None:
    """One column of a float group: exp(score - maximum) of a block; added to `sums`, too."""
    total = load_f32x16(sums)
    for part in range(2 * spans):
        weight = exp_vector(sub(load_f32x16(scores + 64 * part), splat(largest)))
        total = add(total, weight)
        store_f32x16(group + part // 2 * columns * 128 + part % 2 * 64, weight)
    store_f32x16(sums, total)


@kernel
def _weigh_words(
    scores: int, largest: np.float32, sums: int, spans: int, columns: int, group: int, scales: int, size: int
) -> None:
    """As `_weigh`, one column of a word group per 32 dimensions: times the positions' scales, rounded."""
    total = load_f32x16(sums)
    for part in range(2 * spans):
        weight = exp_vector(sub(load_f32x16(scores + 64 * part), splat(largest)))
        total = add(total, weight)
        place = group + WORD_GROUP_HEAD + part // 2 * columns * COLUMN_BYTES + part % 2 * 32
        for dimensions in range(size // 32):
            scaled = mul(weight, load_f32x16(scales + 4 * BLOCK * dimensions + 64 * part))
            store_words(place + _WORD_GROUP_BYTES * dimensions, round_even(scaled))
    store_f32x16(sums, total)


@kernel
def _scale_words(block: int, valid: int, spans: int, size: int, group: int, scales: int) -> None:
    """The scales of a block's valid positions as shares of MOST_WORD of the largest, and each group's float."""
    for dimensions in range(size // 32):
        source, out = value_scales(block, dimensions, size), scales + 4 * BLOCK * dimensions
        highest = splat(_ZERO)
        for part in range(2 * spans):
            limit = splat(np.float32(valid - 16 * part))
            scale = where_less(lane_numbers(), limit, load_f16x16(source + 32 * part), splat(_ZERO))
            highest = maximum(scale, highest)
            store_f32x16(out + 64 * part, scale)
        largest = max_lanes(highest)
        factor = _ZERO
        if largest > _ZERO:
            factor = MOST_WORD / largest
        for part in range(2 * spans):
            store_f32x16(out + 64 * part, mul(load_f32x16(out + 64 * part), splat(factor)))
        store_f32(group + _WORD_GROUP_BYTES * dimensions, largest / MOST_WORD)


@kernel
def _add_values(
    tile: int,
    cached: CachedHead,
    block: int,
    spans: int,
    ahead: int,
    used: int,
    fresh: bool,
    scratch: Scratch,
    rows: int,
) -> None:
    """A block's weights times its values, added to the rows' output; put there, if the rows are fresh."""
    size, row_bytes = cached.size, 4 * (ROW_HEAD + cached.size)
    start = value_panel(block, 0, size, cached.format)
    for index in range(size // 16):
        panel = value_panel(block, index, size, cached.format)
        group = scratch.weights
        if cached.format == Q8_0:
            group += index // 2 * _WORD_GROUP_BYTES
        run_tile(tile, panel, spans, group, scratch.product + 64 * index, 4 * size, ahead + panel - start)
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
    """The query heads of one position that share a KV head, over one piece of what they see."""
    columns, first, row_bytes = WIDTHS[width], PIECE_BLOCKS * piece, 4 * (ROW_HEAD + cached.size)
    seen = min(position + 1 - PIECE * piece, PIECE)
    value_tile = tiles[VALUE_TILE if cached.format == Q8_0 else cached.format, width]
    _score(tiles[cached.format, width], cached, table, first, seen, queries, scratch.scores)
    for column in range(used):
        store_f32(rows + row_bytes * column, _largest(scratch.scores + 4 * PIECE * column, seen))
        store_f32x16(scratch.sums + 64 * column, splat(_ZERO))
    for index in range((seen + BLOCK - 1) // BLOCK):
        block = cached.blocks + table[first + index] * cached.stride
        valid = min(seen - BLOCK * index, BLOCK)
        spans = (valid + 31) // 32
        if cached.format == Q8_0:
            _scale_words(block, valid, spans, cached.size, scratch.weights, scratch.scales)
        for column in range(used):
            scores, sums = scratch.scores + 4 * (PIECE * column + BLOCK * index), scratch.sums + 64 * column
            largest = load_f32(rows + row_bytes * column)
            if cached.format == Q8_0:
                group = scratch.weights + COLUMN_BYTES * column
                _weigh_words(scores, largest, sums, spans, columns, group, scratch.scales, cached.size)
            else:
                _weigh(scores, largest, sums, spans, columns, scratch.weights + 128 * column)
        ahead = 0
        if BLOCK * (index + 1) < seen:
            ahead = value_panel(cached.blocks + table[first + index + 1] * cached.stride, 0, cached.size, cached.format)
        elif position >= PIECE * (piece + 1):
            ahead = cached.blocks + table[first + PIECE_BLOCKS] * cached.stride
        _add_values(value_tile, cached, block, spans, ahead, used, index == 0, scratch, rows)
    for column in range(used):
        store_f32(rows + row_bytes * column + 4, sum_lanes(load_f32x16(scratch.sums + 64 * column)))


@kernel
def begin_head(state: int, out: int, size: int) -> None:
    """Nothing seen yet: maximum -inf, sum 0, output 0."""
    store_f32(state, _MINUS_INFINITY)
    store_f32(state + 4, _ZERO)
    for value in range(0, 4 * size, 64):
        store_f32x16(out + value, splat(_ZERO))


@kernel
def merge_piece(state: int, out: int, row: int, size: int) -> None:
    """Add the row of the next piece to what a head has seen so far."""
    before, largest_of_piece = load_f32(state), load_f32(row)
    largest = max(before, largest_of_piece)
    old, new = exp(before - largest), exp(largest_of_piece - largest)
    source = row + 4 * ROW_HEAD
    for value in range(0, 4 * size, 64):
        scaled = mul(load_f32x16(source + value), splat(np.float32(new)))
        store_f32x16(out + value, fma(load_f32x16(out + value), splat(np.float32(old)), scaled))
    store_f32(state, largest)
    store_f32(state + 4, load_f32(state + 4) * old + load_f32(row + 4) * new)


@kernel
def end_head(state: int, out: int, size: int) -> None:
    """All pieces are merged: the weights' sum becomes 1."""
    share = splat(_ONE / load_f32(state + 4))
    for value in range(0, 4 * size, 64):
        store_f32x16(out + value, mul(load_f32x16(out + value), share))


@kernel
def attend(
    tiles: TileTable,
    cached: CachedHead,
    table: NDArray[np.int32],  # block ids of the sequence
    position: int,  # the queries' position: 0 .. position are seen
    queries: int,  # address of [heads, K] float32, already scaled by 1 / sqrt(K)
    heads: int,
    out: int,  # [heads, K] float32, written
    scratch: Scratch,
) -> None:
    """softmax(q k^T) v for the query heads of one position that share a KV head.

    Heads that need several tiles take turns over a piece, so that all but the first find it in the cache.
    """
    size = cached.size
    write_queries(scratch.queries, queries, heads, cached.format, size)
    for head in range(heads):
        begin_head(scratch.states + 4 * ROW_HEAD * head, out + 4 * size * head, size)
    for piece in range(pieces_of(position)):
        for first in range(0, heads, MOST_HEADS):
            used, group = min(heads - first, MOST_HEADS), scratch.queries + 4 * size * first
            attend_piece(tiles, width_over(used), used, group, cached, table, position, piece, scratch.rows, scratch)
            for column in range(used):
                head, row = first + column, scratch.rows + 4 * (ROW_HEAD + size) * column
                merge_piece(scratch.states + 4 * ROW_HEAD * head, out + 4 * size * head, row, size)
    for head in range(heads):
        end_head(scratch.states + 4 * ROW_HEAD * head, out + 4 * size * head, size)
