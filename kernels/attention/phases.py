"""The attention half of a layer: own query heads of every token, then own rows of the output projection."""

from __future__ import annotations

import numpy as np

from numoe.kernels.attention.kv_cache import BLOCK as KV_BLOCK
from numoe.kernels.attention.kv_cache import store_key, store_value
from numoe.kernels.attention.pieces import (
    MOST_HEADS,
    PIECE,
    ROW_HEAD,
    CachedHead,
    attend,
    attend_piece,
    begin_head,
    end_head,
    merge_piece,
    pieces_of,
    scratch_of,
    write_queries,
)
from numoe.kernels.attention.rope import rotate
from numoe.kernels.cpu.arithmetic import mul, splat
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.matmul.activations import block_bytes, write_column
from numoe.kernels.matmul.claims import claims_of, multiply_claim, panels_per_claim
from numoe.kernels.matmul.column_groups import width_over
from numoe.kernels.matmul.columns import ATTENTION, collect, prepare
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.matmul.vectors import add_vector, rms_norm
from numoe.kernels.records import Constants, Floats, Memory, Record, Sizes, StepInput, Weights
from numoe.kernels.threads.team import Team, barrier, claimed, gather
from numoe.kernels.weights.formats import BLOCK

SPLIT_BELOW = 4  # pieces are shared out where the longest of the step is more than this part of a thread's share

# Heads of a token per claim: a call that is given all memory costs 0.4 us, as Numba counts references to each array,
# and a head takes 0.1 us.
PLACED_AT_ONCE = 8


@kernel
def _project_qkv(team: Team, sizes: Sizes, weights: Weights, memory: Memory, layer: Record) -> None:
    """Rows of the queries, keys and values of own heads, side by side in memory.qkv."""
    q, k, v = layer.q, layer.k, layer.v
    q_items, k_items, v_items = claims_of(q), claims_of(k), claims_of(v)
    stride = 4 * memory.qkv.shape[1]
    x_integer, x_float, out = memory.x_integer.ctypes.data, memory.x_float.ctypes.data, memory.qkv.ctypes.data
    items = q_items + k_items + v_items
    for claim in claimed(team, memory.dense.used[0] * items):
        segment, item = claim // items, claim % items
        if item < q_items:
            item += segment * q_items
            multiply_claim(weights.tiles, q, item, memory.dense, x_integer, x_float, out, stride)
        elif item < q_items + k_items:
            item += segment * k_items - q_items
            multiply_claim(weights.tiles, k, item, memory.dense, x_integer, x_float, out + 4 * q.rows, stride)
        else:
            item += segment * v_items - q_items - k_items
            place = out + 4 * (q.rows + k.rows)
            multiply_claim(weights.tiles, v, item, memory.dense, x_integer, x_float, place, stride)
    barrier(team)


@kernel
def _place_heads(
    sizes: Sizes,
    constants: Constants,
    memory: Memory,
    step: StepInput,
    layer: Record,
    index: int,
    token: int,
    first: int,
    last: int,
) -> None:
    """Finish some heads of one token: bias, norm, rotation; keys and values go to the cache, queries stay."""
    size, queries, position = sizes.head_size, sizes.own_query_heads, step.positions[token]
    for item in range(first, last):
        head = memory.qkv[token, item * size : (item + 1) * size]
        address = head.ctypes.data
        if item < queries:
            bias, norm = layer.q_bias, layer.q_norm
            kv_head = -1
        elif item < queries + sizes.own_kv_heads:
            bias, norm = layer.k_bias, layer.k_norm
            kv_head = item - queries
        else:
            bias, norm = layer.v_bias, layer.v_bias
            kv_head = item - queries - sizes.own_kv_heads
        if bias != 0:
            add_vector(address, bias + 4 * size * (item if kv_head < 0 else kv_head), size)
        is_value = item >= queries + sizes.own_kv_heads
        if not is_value:
            if norm != 0:
                rms_norm(address, norm, size, constants.epsilon[0])
            rotate(head, constants.rope[position], sizes.rotated, sizes.neox)
        if kv_head < 0:
            scale = splat(np.float32(1.0) / np.sqrt(np.float32(size)))
            for value in range(0, size, 16):
                store_f32x16(address + 4 * value, mul(load_f32x16(address + 4 * value), scale))
            continue
        block = step.kv_tables[step.token_sequence[token], position // KV_BLOCK]
        number = (index * sizes.kv_blocks + block) * sizes.own_kv_heads + kv_head
        place = memory.kv + number * memory.kv_block_bytes
        if is_value:
            store_value(place, position % KV_BLOCK, address, size, sizes.kv_format)
        else:
            store_key(place, position % KV_BLOCK, head, sizes.kv_format)


@kernel
def list_pieces(threads: int, sizes: Sizes, memory: Memory, step: StepInput) -> None:
    """By one thread: whether the threads share out pieces or whole tokens in this step, and if pieces, their list.

    Tokens are best where there are enough of them for every thread: no results pass through memory, and there is no
    second phase. What is decided changes no bit of a result.
    """
    tokens, starts = step.header[0], memory.piece_starts
    total = most = 0
    for token in range(tokens):
        pieces = pieces_of(step.positions[token])
        starts[token] = total
        total, most = total + pieces, max(most, pieces)
    few = total * sizes.own_kv_heads < SPLIT_BELOW * threads * most
    starts[-1] = total if threads > 1 and most > 1 and few and total <= memory.piece_tokens.shape[0] else 0
    if starts[-1] > 0:
        for token in range(tokens):
            memory.piece_tokens[starts[token] : starts[token] + pieces_of(step.positions[token])] = token


def most_pieces(threads: int, kv_heads: int, context_tokens: int) -> int:
    """Pieces of a step that are shared out at most: those of tokens that all see a full context."""
    return -(-SPLIT_BELOW * threads // max(kv_heads, 1)) * -(-context_tokens // PIECE)


@kernel
def _cached_head(sizes: Sizes, memory: Memory, index: int, kv_head: int) -> CachedHead:
    first = memory.kv + (index * sizes.kv_blocks * sizes.own_kv_heads + kv_head) * memory.kv_block_bytes
    return CachedHead(first, sizes.own_kv_heads * memory.kv_block_bytes, sizes.kv_format, sizes.head_size)


@kernel
def _own_heads(sizes: Sizes, kv_head: int) -> tuple[int, int]:
    """The first of the own query heads that share an own KV head, and how many they are."""
    shared = sizes.query_heads // sizes.kv_heads
    first = max((sizes.first_kv_head + kv_head) * shared, sizes.first_query_head)
    last = min((sizes.first_kv_head + kv_head + 1) * shared, sizes.first_query_head + sizes.own_query_heads)
    return first - sizes.first_query_head, last - first


@kernel
def _write_heads(sizes: Sizes, memory: Memory, token: int, first: int, heads: int, x: int, integer: int) -> None:
    """Write finished own heads [heads, K] of a token into its group, of which this worker holds own heads only."""
    own, group = memory.parts[sizes.worker], memory.dense.groups[memory.dense.column_group[token]]
    columns, blocks = WIDTHS[group.width], sizes.head_size // BLOCK
    start = group.column * sizes.own_query_heads * blocks + columns * first * blocks
    place = own.attention + start * block_bytes(integer)
    write_column(place, columns, token - group.column, x, heads * blocks, integer)


@kernel
def _attend_token(
    sizes: Sizes,
    weights: Weights,
    memory: Memory,
    step: StepInput,
    scratch: Floats,
    out: int,  # [heads, K] float32 of the thread
    index: int,
    token: int,
    kv_head: int,
) -> None:
    """The own query heads of one token that share one KV head."""
    first, heads = _own_heads(sizes, kv_head)
    size = sizes.head_size
    attend(
        weights.tiles,
        _cached_head(sizes, memory, index, kv_head),
        step.kv_tables[step.token_sequence[token]],
        step.positions[token],
        memory.qkv.ctypes.data + 4 * (token * memory.qkv.shape[1] + first * size),
        heads,
        out,
        scratch_of(scratch.ctypes.data, size, heads),
    )
    _write_heads(sizes, memory, token, first, heads, out, weights.layers[index].output.integer)


@kernel
def _attend_piece(
    sizes: Sizes,
    weights: Weights,
    memory: Memory,
    step: StepInput,
    scratch: Floats,
    index: int,
    number: int,
    kv_head: int,
) -> None:
    """As `_attend_token`, one piece of the list only; its rows go to memory.piece_rows."""
    token = memory.piece_tokens[number]
    head, heads = _own_heads(sizes, kv_head)
    size, parts = sizes.head_size, scratch_of(scratch.ctypes.data, sizes.head_size, heads)
    queries = memory.qkv.ctypes.data + 4 * (token * memory.qkv.shape[1] + head * size)
    write_queries(parts.queries, queries, heads, sizes.kv_format, size)
    for first in range(0, heads, MOST_HEADS):
        used = min(heads - first, MOST_HEADS)
        attend_piece(
            weights.tiles,
            width_over(used),
            used,
            parts.queries + 4 * size * first,
            _cached_head(sizes, memory, index, kv_head),
            step.kv_tables[step.token_sequence[token]],
            step.positions[token],
            number - memory.piece_starts[token],
            memory.piece_rows[number * sizes.own_query_heads + head + first :].ctypes.data,
            parts,
        )


@kernel
def _merge_pieces(
    sizes: Sizes,
    memory: Memory,
    step: StepInput,
    scratch: Floats,
    out: int,  # [K] float32 of the thread
    token: int,
    head: int,
    integer: int,
) -> None:
    """All pieces of one token and own query head."""
    size, state, first = sizes.head_size, scratch.ctypes.data, memory.piece_starts[token]
    begin_head(state, out, size)
    for number in range(first, first + pieces_of(step.positions[token])):
        row = memory.piece_rows.ctypes.data + 4 * (ROW_HEAD + size) * (number * sizes.own_query_heads + head)
        merge_piece(state, out, row, size)
    end_head(state, out, size)
    _write_heads(sizes, memory, token, head, 1, out, integer)


@kernel
def _attend(team: Team, sizes: Sizes, weights: Weights, memory: Memory, step: StepInput, index: int) -> None:
    """All own heads of all tokens, shared out as `list_pieces` decided; no barrier follows, `collect` has it."""
    tokens, pieces = step.header[0], memory.piece_starts[-1]
    scratch, out = memory.scratch[team.thread], memory.rows[team.thread].ctypes.data
    if pieces == 0:
        for item in claimed(team, tokens * sizes.own_kv_heads):
            token, kv_head = item // sizes.own_kv_heads, item % sizes.own_kv_heads
            _attend_token(sizes, weights, memory, step, scratch, out, index, token, kv_head)
    else:
        for item in claimed(team, pieces * sizes.own_kv_heads):
            _attend_piece(sizes, weights, memory, step, scratch, index, item % pieces, item // pieces)
        barrier(team)
        integer = weights.layers[index].output.integer
        for item in claimed(team, tokens * sizes.own_query_heads):
            token, head = item // sizes.own_query_heads, item % sizes.own_query_heads
            _merge_pieces(sizes, memory, step, scratch, out, token, head, integer)


@kernel
def attention(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Own heads of a layer's attention; `attention_output` begins with the gather of all."""
    layer = weights.layers[index]
    tokens = step.header[0]
    integer = layer.q.integer | layer.k.integer | layer.v.integer
    floating = (1 - layer.q.integer) | (1 - layer.k.integer) | (1 - layer.v.integer)
    prepare(team, memory, sizes.width, layer.attention_norm, constants.epsilon[0], integer, floating)
    _project_qkv(team, sizes, weights, memory, layer)
    heads = sizes.own_query_heads + 2 * sizes.own_kv_heads
    chunks = (heads + PLACED_AT_ONCE - 1) // PLACED_AT_ONCE
    for item in claimed(team, tokens * chunks):
        first = PLACED_AT_ONCE * (item % chunks)
        last = min(first + PLACED_AT_ONCE, heads)
        _place_heads(sizes, constants, memory, step, layer, index, item // chunks, first, last)
    barrier(team)
    _attend(team, sizes, weights, memory, step, index)


@kernel
def attention_output(team: Team, sizes: Sizes, weights: Weights, memory: Memory, layer: Record) -> None:
    """Own rows of the output projection of all heads, added to the own slice of the residual stream."""
    matrix = layer.output
    own = memory.parts[sizes.worker]
    x = memory.x_integer.ctypes.data if matrix.integer else memory.x_float.ctypes.data
    x = collect(team, memory.parts, ATTENTION, memory.dense, matrix.integer, x)
    out, stride, hidden_stride = memory.down.ctypes.data, 4 * memory.down.shape[1], 4 * own.width
    chunk, items = panels_per_claim(matrix), claims_of(matrix)
    for item in claimed(team, memory.dense.used[0] * items):
        multiply_claim(weights.tiles, matrix, item, memory.dense, x, x, out, stride)
        segment, first = memory.dense.segments[item // items], 16 * chunk * (item % items)
        last = min(first + 16 * chunk, own.width)
        for index in range(segment.first_group, segment.first_group + segment.groups):
            group = memory.dense.groups[index]
            for token in range(group.column, group.column + group.count):
                place = own.hidden + hidden_stride * token + 4 * first
                add_vector(place, out + stride * token + 4 * first, last - first)
    gather(team)
