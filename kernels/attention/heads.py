"""What a head has seen so far: nothing, then piece after piece merged in order, then all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.pieces import CachedHead, attend_piece, pieces_of, write_queries
from numoe.kernels.attention.scratch import MOST_HEADS, ROW_HEAD, Scratch, queries_bytes
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


class Queries(NamedTuple):
    """The tokens of a step, as attention sees them."""

    rows: int  # address of the first one's [heads, K] float32, already scaled by 1 / sqrt(K)
    stride: int  # bytes from one token's to the next one's
    positions: NDArray[np.int32]  # [T] 0 .. position are seen
    sequences: NDArray[np.int32]  # [T] rows of the tables
    tables: NDArray[np.int32]  # [S, blocks of the longest context] block ids


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
    step: Queries,
    first: int,
    last: int,
    heads: int,
    scratch: Scratch,
) -> None:
    """Compute softmax(q k^T) v for the query heads that share a KV head, of tokens first .. last - 1, <= MOST_TOKENS.

    Piece by piece: what the first token, or the first tile of its heads, has read of a piece the others of the sequence
    find in the cache. The results become scratch.outputs.
    """
    size, most = cached.size, 0
    of_queries, of_states, of_outputs = queries_bytes(size, heads), 4 * ROW_HEAD * heads, 4 * size * heads
    for token in range(first, last):
        place = token - first
        write_queries(
            scratch.queries + of_queries * place, step.rows + step.stride * token, heads, cached.key_format, size
        )
        most = max(most, pieces_of(step.positions[token]))
    for index in range((last - first) * heads):
        begin_head(scratch.states + 4 * ROW_HEAD * index, scratch.outputs + 4 * size * index, size)
    for piece in range(most):
        for token in range(first, last):
            position, place = step.positions[token], token - first
            if piece < pieces_of(position):
                table = step.tables[step.sequences[token]]
                states, outputs = scratch.states + of_states * place, scratch.outputs + of_outputs * place
                queries = scratch.queries + of_queries * place
                _attend_next(tiles, cached, table, position, piece, queries, heads, states, outputs, scratch)
    for index in range((last - first) * heads):
        end_head(scratch.states + 4 * ROW_HEAD * index, scratch.outputs + 4 * size * index, size)


@kernel
def _attend_next(
    tiles: TileTable,
    cached: CachedHead,
    table: NDArray[np.int32],  # block ids of the sequence
    position: int,
    piece: int,
    queries: int,
    heads: int,
    states: int,
    outputs: int,
    scratch: Scratch,
) -> None:
    """Attention of one token's heads over one piece, merged into what they have seen before."""
    size = cached.size
    for first in range(0, heads, MOST_HEADS):
        used, group = min(heads - first, MOST_HEADS), queries + 4 * size * first
        attend_piece(tiles, width_over(used), used, group, cached, table, position, piece, scratch.rows, scratch)
        for column in range(used):
            head, row = first + column, scratch.rows + 4 * (ROW_HEAD + size) * column
            merge_piece(states + 4 * ROW_HEAD * head, outputs + 4 * size * head, row, size)
