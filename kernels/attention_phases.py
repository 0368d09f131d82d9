"""The attention half of a layer: own query heads of every token, then own rows of the output projection."""

from __future__ import annotations

import numpy as np

from numoe.kernels.activations import rms_norm
from numoe.kernels.attention import BLOCK, MOST_HEADS, attend, store_key, store_value
from numoe.kernels.groups import WIDTHS
from numoe.kernels.jit import kernel
from numoe.kernels.projection import (
    ATTENTION,
    HIDDEN,
    add_vector,
    claims_of,
    multiply_claim,
    panels_per_claim,
    prepare,
)
from numoe.kernels.records import Constants, Floats, Memory, Record, Sizes, StepInput, Weights
from numoe.kernels.rope import rotate
from numoe.kernels.router import width_for
from numoe.kernels.simd import load_f32x16, mul, splat, store_f32x16
from numoe.kernels.sync import Team, barrier, claimed, gather
from numoe.kernels.tiles import F16_TILE, F32_TILE


@kernel
def _project_qkv(team: Team, sizes: Sizes, weights: Weights, memory: Memory, layer: Record) -> None:
    """Rows of the queries, keys and values of own heads, side by side in memory.qkv."""
    q, k, v = layer.q, layer.k, layer.v
    q_items, k_items, v_items = claims_of(q), claims_of(k), claims_of(v)
    stride = 4 * memory.qkv.shape[1]
    x_integer, x_float, out = memory.x_integer.ctypes.data, memory.x_float.ctypes.data, memory.qkv.ctypes.data
    for item in claimed(team, q_items + k_items + v_items):
        if item < q_items:
            multiply_claim(weights.tiles, q, item, memory.dense, x_integer, x_float, out, stride)
        elif item < q_items + k_items:
            place = out + 4 * q.rows
            multiply_claim(weights.tiles, k, item - q_items, memory.dense, x_integer, x_float, place, stride)
        else:
            place = out + 4 * (q.rows + k.rows)
            multiply_claim(weights.tiles, v, item - q_items - k_items, memory.dense, x_integer, x_float, place, stride)
    barrier(team)


@kernel
def _place_head(
    sizes: Sizes,
    constants: Constants,
    memory: Memory,
    step: StepInput,
    layer: Record,
    index: int,
    token: int,
    item: int,
) -> None:
    """Finish one head of one token: bias, norm, rotation; keys and values go to the cache, queries stay."""
    size, queries = sizes.head_size, sizes.own_query_heads
    head = memory.qkv[token, item * size : (item + 1) * size]
    address = head.ctypes.data
    position = step.positions[token]
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
        return
    block = step.kv_tables[step.token_sequence[token], position // BLOCK]
    number = (index * sizes.kv_blocks + block) * sizes.own_kv_heads + kv_head
    place = memory.kv + number * memory.kv_block_bytes
    if is_value:
        store_value(place, position % BLOCK, address, size, sizes.kv_half)
    else:
        store_key(place, position % BLOCK, head, sizes.kv_half)


@kernel
def _attend_heads(
    sizes: Sizes,
    weights: Weights,
    memory: Memory,
    step: StepInput,
    scratch: Floats,
    index: int,
    token: int,
    kv_head: int,
) -> None:
    """The own query heads of one token that share one KV head, a tile of them at a time."""
    shared = sizes.query_heads // sizes.kv_heads
    first = max((sizes.first_kv_head + kv_head) * shared, sizes.first_query_head)
    last = min((sizes.first_kv_head + kv_head + 1) * shared, sizes.first_query_head + sizes.own_query_heads)
    tile = F16_TILE if sizes.kv_half else F32_TILE
    kv = memory.kv + (index * sizes.kv_blocks * sizes.own_kv_heads + kv_head) * memory.kv_block_bytes
    table = step.kv_tables[step.token_sequence[token]]
    own = memory.parts[sizes.worker]
    size = sizes.head_size
    for head in range(first, last, MOST_HEADS):
        used = min(last - head, MOST_HEADS)
        width = width_for(used)
        local = head - sizes.first_query_head
        attend(
            weights.tiles[tile, width],
            WIDTHS[width],
            used,
            memory.qkv.ctypes.data + 4 * (token * memory.qkv.shape[1] + local * size),
            step.positions[token],
            kv,
            sizes.own_kv_heads * memory.kv_block_bytes,
            sizes.kv_half,
            table,
            own.attention + 4 * (own.attention_width * token + local * size),
            scratch,
            size,
        )


@kernel
def attention(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Own heads of a layer's attention; ends with the gather of their outputs."""
    layer = weights.layers[index]
    tokens = step.header[0]
    integer = layer.q.integer | layer.k.integer | layer.v.integer
    floating = (1 - layer.q.integer) | (1 - layer.k.integer) | (1 - layer.v.integer)
    prepare(
        team, memory, HIDDEN, memory.dense, memory.dense.source, sizes.width, np.uintp(0), layer.attention_norm,
        constants.epsilon[0], integer, floating, memory.x_integer.ctypes.data, memory.x_float.ctypes.data,
    )  # fmt: skip
    _project_qkv(team, sizes, weights, memory, layer)
    heads = sizes.own_query_heads + 2 * sizes.own_kv_heads
    for item in claimed(team, tokens * heads):
        _place_head(sizes, constants, memory, step, layer, index, item // heads, item % heads)
    barrier(team)
    for item in claimed(team, tokens * sizes.own_kv_heads):
        token, kv_head = item // sizes.own_kv_heads, item % sizes.own_kv_heads
        _attend_heads(sizes, weights, memory, step, memory.scratch[team.thread], index, token, kv_head)
    gather(team)


@kernel
def attention_output(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, layer: Record
) -> None:
    """Own rows of the output projection, added to the own slice of the residual stream."""
    matrix = layer.output
    own = memory.parts[sizes.worker]
    x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    prepare(
        team, memory, ATTENTION, memory.dense, memory.dense.source, sizes.query_heads * sizes.head_size,
        np.uintp(0), np.uintp(0), constants.epsilon[0], matrix.integer, 1 - matrix.integer, x_integer, x_float,
    )  # fmt: skip
    out, stride = memory.down.ctypes.data, 4 * own.width
    chunk, items = panels_per_claim(matrix), claims_of(matrix)
    for item in claimed(team, items):
        multiply_claim(weights.tiles, matrix, item, memory.dense, x_integer, x_float, out, stride)
        first, last = 16 * chunk * item, min(16 * chunk * (item + 1), own.width)
        for token in range(memory.dense.used[1]):
            if memory.dense.column_group[token] >= 0:
                add_vector(own.hidden + stride * token + 4 * first, out + stride * token + 4 * first, last - first)
    gather(team)
