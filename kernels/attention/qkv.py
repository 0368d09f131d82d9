"""Queries, keys and values of own heads: projected, finished, and put where attention reads them."""

from __future__ import annotations

import numpy as np

from numoe.kernels.attention.hadamard import hadamard
from numoe.kernels.attention.kv_cache import KV_BLOCK, kv_half_bytes, store_key, store_value
from numoe.kernels.attention.rope import rotate
from numoe.kernels.cpu.arithmetic import mul, splat
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.matmul.claims import claims_of, multiply_claim
from numoe.kernels.matmul.vectors import add_vector, rms_norm
from numoe.kernels.records import Constants, Memory, Record, ShardSizes, StepInput, Weights
from numoe.kernels.threads.team import Team, barrier, claimed


@kernel
def project_qkv(team: Team, sizes: ShardSizes, weights: Weights, memory: Memory, layer: Record) -> None:
    """Compute queries, keys and values of own heads, side by side in the rows of memory.qkv."""
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
def place_heads(
    sizes: ShardSizes,
    constants: Constants,
    memory: Memory,
    step: StepInput,
    layer: Record,
    index: int,  # of the layer
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
            if sizes.hadamard:
                hadamard(address, size)
        if kv_head < 0:
            scale = splat(np.float32(1.0) / np.sqrt(np.float32(size)))
            for value in range(0, size, 16):
                store_f32x16(address + 4 * value, mul(load_f32x16(address + 4 * value), scale))
            continue
        kv_block = step.kv_tables[step.token_sequence[token], position // KV_BLOCK]
        number = (index * sizes.kv_blocks + kv_block) * sizes.own_kv_heads + kv_head
        place = memory.kv + number * memory.kv_block_bytes
        if is_value:
            values = place + kv_half_bytes(size, sizes.key_format)
            store_value(values, position % KV_BLOCK, address, size, sizes.value_format)
        else:
            store_key(place, position % KV_BLOCK, head, sizes.key_format)
