"""The feed-forward half of a layer: the router, and own rows of every active expert, or own experts.

Intermediates are rounded as they are made, in blocks of 32 rows. Split by row, workers gather them after gate and up;
where experts are whole a worker has all that its experts need, and all gather the experts' outputs instead. The bits
are the same.
"""

from __future__ import annotations

import numpy as np

from numoe.kernels.cpu.arithmetic import add, fma, mul, splat
from numoe.kernels.cpu.functions import silu_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.experts.router import assign_experts, choose_experts, count_choices, group_by_expert
from numoe.kernels.matmul.activations import (
    block_bytes,
    copy_column,
    write_column,
    write_float_column,
    write_integer_column,
)
from numoe.kernels.matmul.claims import claims_of, multiply_claim, panels_per_claim, run_panel
from numoe.kernels.matmul.columns import INTERMEDIATE, collect, normalise, prepare
from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES, WIDEST, WIDTHS
from numoe.kernels.matmul.vectors import copy_bytes
from numoe.kernels.records import Constants, Grouping, Memory, Record, Sizes, StepInput, TileTable, Weights
from numoe.kernels.threads.team import Team, arrive, barrier, claimed, gather, release
from numoe.kernels.weights.formats import BLOCK, ROWS

ADD_CHUNK = 512  # values of the residual stream per claim
GATE_AND_UP_TILES = 3  # of WIDEST columns, in the scratch of a thread: rows of a block, and of one panel of up


@kernel
def _integer(layer: Record) -> int:
    """Whether gate or up takes columns of integers."""
    return layer.gate.integer | layer.up.integer


@kernel
def _floating(layer: Record) -> int:
    """Whether gate or up takes columns of floats."""
    return 1 - (layer.gate.integer & layer.up.integer)


@kernel
def _prepare_tokens(
    team: Team, sizes: Sizes, constants: Constants, memory: Memory, layer: Record, first: int, last: int
) -> None:
    """Normalise own tokens: each as a column by itself, for any of its experts, and in groups for the router."""
    own, blocks = memory.parts[sizes.worker], sizes.width // BLOCK
    for item in claimed(team, last - first):
        token, row = first + item, memory.rows[team.thread].ctypes.data
        normalise(row, memory.parts, token, layer.feed_forward_norm, sizes.width, constants.epsilon[0])
        if _integer(layer):
            write_integer_column(own.normed_integer + token * blocks * INTEGER_BYTES, 1, 0, row, blocks)
        if _floating(layer):
            write_float_column(own.normed_float + token * blocks * FLOAT_BYTES, 1, 0, row, blocks)
        group = memory.dense.groups[memory.dense.column_group[token]]
        place = memory.x_float.ctypes.data + group.column * blocks * FLOAT_BYTES
        write_float_column(place, WIDTHS[group.width], token - group.column, row, blocks)
    barrier(team)


@kernel
def _take(out: int, source: int, token: int, size: int) -> None:
    """Copy the `size` bytes that belong to a token."""
    copy_bytes(out + size * token, source + size * token, size)


@kernel
def _take_tokens(team: Team, sizes: Sizes, memory: Memory, layer: Record, tokens: int) -> None:
    """The columns and choices of the tokens that other workers routed."""
    own, starts, blocks = memory.parts[sizes.worker], memory.routed_starts, sizes.width // BLOCK
    for token in claimed(team, tokens):
        worker = 0
        while starts[worker + 1] <= token:
            worker += 1
        if worker != sizes.worker:
            part = memory.parts[worker]
            if _integer(layer):
                _take(own.normed_integer, part.normed_integer, token, blocks * INTEGER_BYTES)
            if _floating(layer):
                _take(own.normed_float, part.normed_float, token, blocks * FLOAT_BYTES)
            _take(own.chosen, part.chosen, token, 4 * sizes.active_experts)
            _take(own.shares, part.shares, token, 4 * sizes.active_experts)


@kernel
def _route(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Normalise and route own tokens, and pack those of each expert into groups."""
    layer, tokens = weights.layers[index], step.header[0]
    shared, first, last = memory.routed_starts[sizes.workers] > 0, 0, tokens
    if shared:
        first, last = memory.routed_starts[sizes.worker], memory.routed_starts[sizes.worker + 1]
    _prepare_tokens(team, sizes, constants, memory, layer, first, last)
    stride, out = 4 * memory.router_logits.shape[1], memory.router_logits.ctypes.data
    x = memory.x_float.ctypes.data
    for item in claimed(team, memory.routed.used[0] * claims_of(layer.router)):
        multiply_claim(weights.tiles, layer.router, item, memory.routed, x, x, out, stride)
    barrier(team)
    for item in claimed(team, last - first):
        token = first + item
        choose_experts(memory.chosen[token], memory.shares[token], memory.router_logits[token], sizes.experts)
    if shared:
        gather(team)
        _take_tokens(team, sizes, memory, layer, tokens)
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
        _pack(team, sizes, memory, layer)


@kernel
def _pack(team: Team, sizes: Sizes, memory: Memory, layer: Record) -> None:
    """Copy each token's column into the groups of its experts."""
    own, blocks = memory.parts[sizes.worker], sizes.width // BLOCK
    for column in claimed(team, memory.expert.used[1]):
        number = memory.expert.column_group[column]
        if number >= 0:
            group, token = memory.expert.groups[number], memory.expert.source[column]
            columns, first, at = WIDTHS[group.width], group.column * blocks, column - group.column
            if _integer(layer):
                place = memory.packed_integer.ctypes.data + first * INTEGER_BYTES
                source = own.normed_integer + token * blocks * INTEGER_BYTES
                copy_column(place, columns, at, source, blocks, INTEGER_BYTES)
            if _floating(layer):
                place = memory.packed_float.ctypes.data + first * FLOAT_BYTES
                source = own.normed_float + token * blocks * FLOAT_BYTES
                copy_column(place, columns, at, source, blocks, FLOAT_BYTES)
    barrier(team)


@kernel
def _blocks_per_claim(gate: Record) -> int:
    """Blocks of 32 rows of gate and up, 2 panels of each."""
    return max(1, panels_per_claim(gate) // 2)


@kernel
def _claims_of_blocks(gate: Record) -> int:
    """Claims that gate and up are shared out in."""
    at_once = _blocks_per_claim(gate)
    return (gate.rows // BLOCK + at_once - 1) // at_once


@kernel
def _gate_and_up(
    tiles: TileTable,
    layer: Record,
    grouping: Grouping,
    item: int,
    x_integer: int,
    x_float: int,
    out: int,  # groups of own rows of the expert columns, written
    scratch: int,  # of the thread, GATE_AND_UP_TILES tiles
) -> None:
    """silu(gate x) * (up x) for one claim of an expert's rows, rounded."""
    gate, up, integer = layer.gate, layer.up, layer.down.integer
    chunks, at_once, blocks = _claims_of_blocks(gate), _blocks_per_claim(gate), gate.rows // BLOCK
    segment, first = grouping.segments[item // chunks], item % chunks * at_once
    x_gate, x_up = x_integer if gate.integer else x_float, x_integer if up.integer else x_float
    up_tile, unit = scratch + 4 * WIDEST * BLOCK, block_bytes(integer)
    for block in range(first, min(first + at_once, blocks)):
        for index in range(segment.first_group, segment.first_group + segment.groups):
            group, fetch = grouping.groups[index], index == segment.first_group
            for half in range(2):
                panel, tile = 2 * block + half, scratch + 4 * ROWS * half
                run_panel(tiles, gate, segment.expert, panel, group.width, x_gate, group.x_column, tile, 128, fetch)
                run_panel(tiles, up, segment.expert, panel, group.width, x_up, group.x_column, up_tile, 64, fetch)
                for column in range(group.count):
                    place = tile + 128 * column
                    activated = silu_vector(load_f32x16(place))
                    store_f32x16(place, mul(activated, load_f32x16(up_tile + 64 * column)))
            columns = WIDTHS[group.width]
            place = out + (group.column * blocks + block * columns) * unit
            for column in range(group.count):
                write_column(place, columns, column, scratch + 128 * column, 1, integer)


@kernel
def _down(
    team: Team, weights: Weights, memory: Memory, layer: Record, x: int, out: int | np.uintp, stride: int
) -> None:
    """This worker's rows of each expert's down projection, one row of `out` per expert column."""
    for item in claimed(team, memory.expert.used[0] * claims_of(layer.down)):
        multiply_claim(weights.tiles, layer.down, item, memory.expert, x, x, out, stride)
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
    layer, tokens = weights.layers[index], step.header[0]
    own = memory.parts[sizes.worker]
    if sizes.routed:
        _route(team, sizes, constants, weights, memory, step, index)
        x_integer, x_float = own.normed_integer, own.normed_float
        if tokens > 1:
            x_integer, x_float = np.uintp(memory.packed_integer.ctypes.data), np.uintp(memory.packed_float.ctypes.data)
    else:
        norm, epsilon = layer.feed_forward_norm, constants.epsilon[0]
        prepare(team, memory, sizes.width, norm, epsilon, _integer(layer), _floating(layer))
        x_integer, x_float = np.uintp(memory.x_integer.ctypes.data), np.uintp(memory.x_float.ctypes.data)
    scratch = memory.scratch[team.thread].ctypes.data
    for item in claimed(team, memory.expert.used[0] * _claims_of_blocks(layer.gate)):
        _gate_and_up(weights.tiles, layer, memory.expert, item, x_integer, x_float, own.intermediate, scratch)
    if layer.whole:
        barrier(team)
        _down(team, weights, memory, layer, own.intermediate, own.output, 4 * sizes.width)
    else:
        x = memory.packed_integer.ctypes.data if layer.down.integer else memory.packed_float.ctypes.data
        x = collect(team, memory.parts, INTERMEDIATE, memory.expert, layer.down.integer, x)
        _down(team, weights, memory, layer, x, np.uintp(memory.down.ctypes.data), 4 * memory.down.shape[1])
    _add_experts(team, sizes, memory, tokens, layer.whole)
