"""What a head has seen so far: nothing, then piece after piece merged in order, then all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.pieces import CachedHead, attend_piece, pieces_of, write_queries
from numoe.kernels.attention.scratch import MOST_HEADS, ROW_HEAD, Scratch
from numoe.kernels.cpu.arithmetic import fma, mul, splat
from numoe.kernels.cpu.functions import exp
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32, load_f32x16
from numoe.kernels.cpu.stores import store_f32, store_f32x16
from numoe.kernels.matmul.column_groups import width_over
from numoe.kernels.records import TileTable

_MINUS_INFINITY = np.float32(-np.inf)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@kernel
def begin_head(state: int, out: int, size: int) -> None:
    """Let a head have seen nothing yet: maximum -inf, sum 0, output 0."""
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
    """Make the sum of the weights 1, once all pieces are merged."""
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
    """Compute softmax(q k^T) v for the query heads of one position that share a KV head.

    Heads that need several tiles take turns over a piece, so that all but the first find it in the cache.
    """
    size = cached.size
    write_queries(scratch.queries, queries, heads, cached.key_format, size)
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
