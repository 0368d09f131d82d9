"""The feed-forward half of a layer: the router, and own rows of every active expert, or own experts.

Split by row, workers gather after gate and up, so that each has every intermediate row whole to round. Where experts
are whole a worker has those rows, and all gather the experts' outputs instead. The bits are the same.
"""

from __future__ import annotations

import numpy as np

from numoe.kernels.activations import copy_float_column, copy_integer_column
from numoe.kernels.functions import silu_vector
from numoe.kernels.groups import FLOAT_BYTES, INTEGER_BYTES, ROWS, WIDEST, WIDTHS
from numoe.kernels.jit import kernel
from numoe.kernels.projection import (
    HIDDEN,
    INTERMEDIATE,
    claims_of,
    multiply_claim,
    panels_per_claim,
    prepare,
    run_panel,
)
from numoe.kernels.records import Constants, Grouping, Memory, Record, Sizes, StepInput, Tiles, Weights
from numoe.kernels.router import assign_experts, choose_experts, count_choices, group_by_expert
from numoe.kernels.simd import add, fma, load_f32x16, mul, splat, store_f32x16
from numoe.kernels.sync import Team, arrive, barrier, claimed, gather, release

ADD_CHUNK = 512  # values of the residual stream per claim


@kernel
def _route(team: Team, sizes: Sizes, weights: Weights, memory: Memory, step: StepInput, index: int) -> None:
    """Router logits, the experts of each token, and the tokens of each expert, packed into groups."""
    layer = weights.layers[index]
    tokens = step.header[0]
    stride = 4 * memory.router_logits.shape[1]
    x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    out = memory.router_logits.ctypes.data
    for item in claimed(team, memory.dense.used[0] * claims_of(layer.router)):
        multiply_claim(weights.tiles, layer.router, item, memory.dense, x_integer, x_float, out, stride)
    barrier(team)
    for token in claimed(team, tokens):
        choose_experts(memory.chosen[token], memory.shares[token], memory.router_logits[token], sizes.experts)
    if arrive(team):
        count_choices(memory.counts, memory.expert_hits[index], memory.chosen, tokens)
        worker = -1
        if layer.whole:
            worker = sizes.worker
            assign_experts(memory.owners, memory.loads, memory.counts, step.expert_holders[index])
        group_by_expert(memory.expert, memory.columns, memory.counts, memory.chosen, tokens, memory.owners, worker)
        expert_bytes = layer.gate.expert_bytes + layer.up.expert_bytes + layer.down.expert_bytes
        memory.counters[0].bytes_read += memory.expert.used[0] * expert_bytes
        release(team)
    if tokens > 1:
        _pack(team, memory, sizes.width // 32, layer)


@kernel
def _pack(team: Team, memory: Memory, blocks: int, layer: Record) -> None:
    """Copy each token's column into the groups of its experts."""
    integer = layer.gate.integer | layer.up.integer
    floating = (1 - layer.gate.integer) | (1 - layer.up.integer)
    for column in claimed(team, memory.expert.used[1]):
        number = memory.expert.column_group[column]
        if number >= 0:
            group = memory.expert.groups[number]
            token = memory.expert.source[column]
            origin = memory.dense.groups[memory.dense.column_group[token]]
            columns, from_columns = WIDTHS[group.width], WIDTHS[origin.width]
            first, from_first = group.column * blocks, origin.column * blocks
            at, from_at = column - group.column, token - origin.column
            if integer:
                place = memory.packed_integer.ctypes.data + first * INTEGER_BYTES
                source = memory.x_integer.ctypes.data + from_first * INTEGER_BYTES
                copy_integer_column(place, columns, at, source, from_columns, from_at, blocks)
            if floating:
                place = memory.packed_float.ctypes.data + first * FLOAT_BYTES
                source = memory.x_float.ctypes.data + from_first * FLOAT_BYTES
                copy_float_column(place, columns, at, source, from_columns, from_at, blocks)
    barrier(team)


@kernel
def _gate_and_up(
    tiles: Tiles,
    layer: Record,
    grouping: Grouping,
    item: int,
    x_integer: int,
    x_float: int,
    out: int,  # [columns, f] float32, written
    scratch: int,  # of the thread, 2 tiles
) -> None:
    """silu(gate x) * (up x) for one claim of an expert's rows."""
    gate, up = layer.gate, layer.up
    chunks = claims_of(gate)
    segment = grouping.segments[item // chunks]
    first = (item % chunks) * panels_per_claim(gate)
    stride = 4 * gate.rows
    x_gate, x_up = x_integer if gate.integer else x_float, x_integer if up.integer else x_float
    second = scratch + 4 * WIDEST * ROWS
    for panel in range(first, min(first + panels_per_claim(gate), gate.panels)):
        for index in range(segment.first_group, segment.first_group + segment.groups):
            group, fetch = grouping.groups[index], index == segment.first_group
            run_panel(tiles, gate, segment.expert, panel, group.width, x_gate, group.x_column, scratch, 64, fetch)
            run_panel(tiles, up, segment.expert, panel, group.width, x_up, group.x_column, second, 64, fetch)
            for column in range(group.count):
                activated = silu_vector(load_f32x16(scratch + 64 * column))
                product = mul(activated, load_f32x16(second + 64 * column))
                store_f32x16(out + stride * (group.column + column) + 64 * panel, product)


@kernel
def _down(
    team: Team,
    weights: Weights,
    memory: Memory,
    layer: Record,
    x_integer: int,
    x_float: int,
    out: int | np.uintp,
    stride: int,
) -> None:
    """This worker's rows of each expert's down projection, one row of `out` per expert column."""
    for item in claimed(team, memory.expert.used[0] * claims_of(layer.down)):
        multiply_claim(weights.tiles, layer.down, item, memory.expert, x_integer, x_float, out, stride)
    if layer.whole:
        gather(team)
    else:
        barrier(team)


@kernel
def _add_experts(team: Team, sizes: Sizes, memory: Memory, tokens: int, whole: int) -> None:
    """hidden += sum over the experts, in the router's order, of share * output; ends with a gather."""
    own = memory.parts[sizes.worker]
    chunks = (own.width + ADD_CHUNK - 1) // ADD_CHUNK
    for item in claimed(team, tokens * chunks):
        token = item // chunks
        first = (item % chunks) * ADD_CHUNK
        for value in range(first, min(first + ADD_CHUNK, own.width), 16):
            total = splat(np.float32(0.0))
            for rank in range(sizes.active_experts):
                column = memory.columns[token, rank]
                if whole:
                    output = memory.parts[memory.owners[memory.chosen[token, rank]]].output
                    place = output + 4 * (sizes.width * column + sizes.first_width + value)
                else:
                    place = memory.down.ctypes.data + 4 * (memory.down.shape[1] * column + value)
                total = fma(splat(memory.shares[token, rank]), load_f32x16(place), total)
            place = own.hidden + 4 * (own.width * token + value)
            store_f32x16(place, add(load_f32x16(place), total))
    gather(team)


@kernel
def feed_forward(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """A layer's experts: own rows of all, or all rows of those that are this worker's in this step."""
    layer = weights.layers[index]
    integer = layer.gate.integer | layer.up.integer
    floating = (1 - layer.gate.integer) | (1 - layer.up.integer) | sizes.routed
    x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    prepare(
        team, memory, HIDDEN, memory.dense, memory.dense.source, sizes.width, np.uintp(0), layer.feed_forward_norm,
        constants.epsilon[0], integer, floating, x_integer, x_float,
    )  # fmt: skip
    if sizes.routed:
        _route(team, sizes, weights, memory, step, index)
        if step.header[0] > 1:
            x_integer, x_float = memory.packed_integer.ctypes.data, memory.packed_float.ctypes.data
    own = memory.parts[sizes.worker]
    scratch = memory.scratch[team.thread].ctypes.data
    items = memory.expert.used[0] * claims_of(layer.gate)
    for item in claimed(team, items):
        _gate_and_up(weights.tiles, layer, memory.expert, item, x_integer, x_float, own.intermediate, scratch)
    whole, out, stride = np.uintp(0), np.uintp(memory.down.ctypes.data), 4 * memory.down.shape[1]
    if layer.whole:
        barrier(team)
        whole, out, stride = own.intermediate, own.output, 4 * sizes.width
    else:
        gather(team)
    x_integer, x_float = memory.packed_integer.ctypes.data, memory.packed_float.ctypes.data
    prepare(
        team, memory, INTERMEDIATE, memory.expert, memory.identity, sizes.expert_width, whole,
        np.uintp(0), constants.epsilon[0], layer.down.integer, 1 - layer.down.integer, x_integer, x_float,
    )  # fmt: skip
    _down(team, weights, memory, layer, x_integer, x_float, out, stride)
    _add_experts(team, sizes, memory, step.header[0], layer.whole)
