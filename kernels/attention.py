"""Grouped-query attention over a paged KV cache, in fixed-size pieces merged in a fixed order.

A KV block holds BLOCK positions of one KV head, as panels that the tiles of tiles.py read directly:

    keys    [BLOCK / 16][K][16 positions]       scores of 16 positions = one tile over K
    values  [K / 16][BLOCK][16 dimensions]      16 output dimensions = one tile over the positions

The columns of a tile are the query heads that share the KV head, at one position. PIECE_BLOCKS blocks make a piece,
computed from nothing with a running maximum (Milakov & Gimelshein 2018; FlashAttention); pieces are merged in order.
A position's result is so the same in prefill and decode, in any chunk and whoever computes the pieces. Blocks past a
position are skipped. In its last block the scores past it are masked to -inf, whose exp is exactly 0, and what the
cache holds there is finite whatever was ever computed: it starts as zeros, and values are stored as finite numbers. So
nothing that another sequence left there can show.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.activations import write_float_column
from numoe.kernels.functions import exp, exp_vector
from numoe.kernels.groups import WIDEST
from numoe.kernels.jit import kernel
from numoe.kernels.simd import (
    add,
    finite,
    fma,
    lane_numbers,
    load_f32x16,
    max_lanes,
    maximum,
    mul,
    splat,
    store_f16,
    store_f16x16,
    store_f32,
    store_f32x16,
    sub,
    sum_lanes,
    where_less,
)
from numoe.kernels.tiles import run_tile

BLOCK = 64  # positions of a KV block
MOST_HEADS = min(8, WIDEST)  # query heads of a tile
PIECE_BLOCKS = 8  # 512 positions: long enough that merging costs nothing, short enough to share out a 16k context

_MINUS_INFINITY = np.float32(-np.inf)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


def kv_block_bytes(head_size: int, half: bool) -> int:
    """Bytes of one block of one KV head: keys and values."""
    return 2 * BLOCK * head_size * (2 if half else 4)


def scratch_floats(head_size: int) -> int:
    """Floats of a thread's scratch: two states; queries, a piece's and a block's output; scores and probabilities."""
    return 32 + MOST_HEADS * (3 * head_size + 2 * BLOCK)


@kernel
def store_key(block: int, offset: int, key: NDArray[np.float32], half: int) -> None:
    """Put a key [K] at position `offset` of the KV block at address `block`."""
    size = key.shape[0]
    place = (offset // 16) * size * 16 + offset % 16
    for value in range(size):
        if half:
            store_f16(block + 2 * (place + 16 * value), key[value])
        else:
            store_f32(block + 4 * (place + 16 * value), key[value])


@kernel
def store_value(block: int, offset: int, value: int, size: int, half: int) -> None:
    """Put a value (address of [K] float32) at position `offset` of the KV block at address `block`."""
    for panel in range(size // 16):
        source = load_f32x16(value + 64 * panel)
        place = BLOCK * size + panel * BLOCK * 16 + offset * 16
        if half:
            store_f16x16(block + 2 * place, source)
        else:
            store_f32x16(block + 4 * place, finite(source))


@kernel
def _softmax_block(
    scores: int,  # [BLOCK] float32 of one column
    valid: int,  # positions of the block that count, 1 .. BLOCK
    probabilities: int,  # address of the column in a float group of 2 blocks, written
    columns: int,
    state: NDArray[np.float32],  # [2] maximum and sum so far, updated
) -> np.float32:
    """exp(score - maximum) of one block; returns what the output so far must be multiplied by."""
    highest = splat(_MINUS_INFINITY)
    for part in range(BLOCK // 16):
        place = scores + 64 * part
        limit = splat(np.float32(valid - 16 * part))
        masked = where_less(lane_numbers(), limit, load_f32x16(place), splat(_MINUS_INFINITY))
        store_f32x16(place, masked)
        highest = maximum(highest, masked)
    before = state[0]
    largest = max(before, max_lanes(highest))
    total = splat(_ZERO)
    for part in range(BLOCK // 16):
        weight = exp_vector(sub(load_f32x16(scores + 64 * part), splat(largest)))
        total = add(total, weight)
        store_f32x16(probabilities + (part // 2) * columns * 128 + (part % 2) * 64, weight)
    shrink = exp(before - largest)
    state[0] = largest
    state[1] = state[1] * shrink + sum_lanes(total)
    return shrink


@kernel
def _merge(out: int, scale: np.float32, other: int, other_scale: np.float32, size: int) -> None:
    """out = out * scale + other * other_scale, [K] float32 each."""
    for value in range(0, size, 16):
        place = out + 4 * value
        scaled = mul(load_f32x16(other + 4 * value), splat(np.float32(other_scale)))
        store_f32x16(place, fma(load_f32x16(place), splat(np.float32(scale)), scaled))


@kernel
def _reset(state: NDArray[np.float32], out: int, columns: int, size: int) -> None:
    """Nothing seen yet: maximum -inf, sum 0, output 0 for each column."""
    for column in range(columns):
        state[2 * column], state[2 * column + 1] = _MINUS_INFINITY, _ZERO
    for value in range(0, columns * size, 16):
        store_f32x16(out + 4 * value, splat(_ZERO))


@kernel
def _attend_block(
    tile: int,
    columns: int,
    used: int,
    queries: int,
    keys: int,  # address of the KV block
    valid: int,  # positions of it that count
    value_bytes: int,
    out: int,  # [used, K] float32, the piece's output so far, updated
    state: NDArray[np.float32],  # [used * 2]
    scratch: int,  # scores, probabilities, this block's output
    size: int,
) -> None:
    scores, probabilities, block_out = scratch, scratch + 4 * MOST_HEADS * BLOCK, scratch + 2 * 4 * MOST_HEADS * BLOCK
    values = keys + BLOCK * size * value_bytes
    for part in range((valid + 15) // 16):
        run_tile(tile, keys + part * size * 16 * value_bytes, size // 32, queries, scores + 64 * part, 4 * BLOCK, 0)
    for column in range(used):
        shrink = _softmax_block(
            scores + 4 * BLOCK * column,
            valid,
            probabilities + 128 * column,
            columns,
            state[2 * column : 2 * column + 2],
        )
        place = out + 4 * size * column
        _merge(place, shrink, place, _ZERO, size)
    for panel in range(size // 16):
        run_tile(
            tile, values + panel * BLOCK * 16 * value_bytes, 2, probabilities, block_out + 64 * panel, 4 * size, values
        )
    for column in range(used):
        _merge(out + 4 * size * column, _ONE, block_out + 4 * size * column, _ONE, size)


@kernel
def attend(
    tile: int,  # address of the tile kernel for the cache's format and this width
    columns: int,  # width of the tile
    used: int,  # query heads, <= columns
    queries: int,  # address of [used, K] float32, already scaled by 1 / sqrt(K)
    position: int,  # the queries' position: 0 .. position are seen
    kv: int,  # address of the layer's KV blocks for this head
    block_stride: int,  # bytes from one block id to the next
    half: int,
    table: NDArray[np.int32],  # block ids of the sequence
    out: int,  # [used, K] float32, written
    scratch: NDArray[np.float32],  # [scratch_floats(K)] a thread's own
    size: int,  # K
) -> None:
    """softmax(q k^T) v for the query heads of one position that share a KV head."""
    state, piece_state = scratch[:16], scratch[16:32]
    group = scratch.ctypes.data + 4 * 32
    piece_out = group + 4 * MOST_HEADS * size
    rest = piece_out + 4 * MOST_HEADS * size
    value_bytes = 2 if half else 4
    blocks = position // BLOCK + 1
    for column in range(used):
        write_float_column(group, columns, column, queries + 4 * size * column, size // 32)
    _reset(state, out, used, size)
    for first in range(0, blocks, PIECE_BLOCKS):
        _reset(piece_state, piece_out, used, size)
        for index in range(first, min(first + PIECE_BLOCKS, blocks)):
            keys = kv + table[index] * block_stride
            valid = min(position - index * BLOCK + 1, BLOCK)
            _attend_block(tile, columns, used, group, keys, valid, value_bytes, piece_out, piece_state, rest, size)
        for column in range(used):
            largest = max(state[2 * column], piece_state[2 * column])
            old, new = exp(state[2 * column] - largest), exp(piece_state[2 * column] - largest)
            _merge(out + 4 * size * column, old, piece_out + 4 * size * column, new, size)
            state[2 * column] = largest
            state[2 * column + 1] = state[2 * column + 1] * old + piece_state[2 * column + 1] * new
    for column in range(used):
        _merge(out + 4 * size * column, _ONE / state[2 * column + 1], out + 4 * size * column, _ZERO, size)
