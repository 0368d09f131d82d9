"""The feed-forward half of a layer: routing, and own rows of every active expert, or own experts.

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
from numoe.kernels.experts.router import NOT_RUN
from numoe.kernels.experts.routing import route_tokens, takes_floats, takes_integers
from numoe.kernels.matmul.activations import block_bytes, write_column
from numoe.kernels.matmul.claims import claims_of, multiply_claim, panels_per_claim, run_panel
from numoe.kernels.matmul.column_groups import groups_alike
from numoe.kernels.matmul.columns import INTERMEDIATE, collect, prepare
from numoe.kernels.matmul.groups import GROUPS, WIDEST, WIDTHS
from numoe.kernels.records import Constants, Grouping, Memory, Record, ShardSizes, StepInput, TileTable, Weights
from numoe.kernels.threads.profile import ADD, DOWN, FEED_FORWARD_NORM, GATE_UP, enter
from numoe.kernels.threads.team import Team, barrier, claimed, gather
from numoe.kernels.weights.formats import BLOCK, ROWS

ADD_CHUNK = 512  # values of the residual stream per claim
GATE_AND_UP_COLUMNS = GROUPS * WIDEST  # that are made at once
GATE_AND_UP_FLOATS = 3 * GATE_AND_UP_COLUMNS * ROWS  # scratch of a thread: rows of a block, and of one panel of up


@kernel
def _blocks_per_claim(gate: Record) -> int:
    """How many blocks of 32 rows of gate and up, 2 panels of each, one claim takes."""
    return max(1, panels_per_claim(gate) // 2)


@kernel
def _claims_of_blocks(gate: Record) -> int:
    """How many claims gate and up are shared out in."""
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
    scratch: int,  # of the thread, GATE_AND_UP_FLOATS
) -> None:
    """Compute silu(gate x) * (up x) for one claim of an expert's rows, and round it."""
    gate, up, integer = layer.gate, layer.up, layer.down.integer
    chunks, at_once, blocks = _claims_of_blocks(gate), _blocks_per_claim(gate), gate.rows // BLOCK
    segment, first = grouping.segments[item // chunks], item % chunks * at_once
    x_gate, x_up = x_integer if gate.integer else x_float, x_integer if up.integer else x_float
    up_tile, size = scratch + 4 * GATE_AND_UP_COLUMNS * BLOCK, block_bytes(integer)
    for block in range(first, min(first + at_once, blocks)):
        index, end = segment.first_group, segment.first_group + segment.groups
        while index < end:
            group, fetch = grouping.groups[index], index == segment.first_group
            count = groups_alike(grouping, index, end) if gate.integer and up.integer else 1
            width, x_column, columns = group.width, group.x_column, WIDTHS[group.width]
            used = columns * (count - 1) + grouping.groups[index + count - 1].count
            for half in range(2):
                panel, tile = 2 * block + half, scratch + 4 * ROWS * half
                run_panel(tiles, gate, segment.expert, panel, width, x_gate, x_column, tile, 128, count, fetch)
                run_panel(tiles, up, segment.expert, panel, width, x_up, x_column, up_tile, 64, count, fetch)
                for column in range(used):
                    place = tile + 128 * column
                    activated = silu_vector(load_f32x16(place))
                    store_f32x16(place, mul(activated, load_f32x16(up_tile + 64 * column)))
            for column in range(used):
                place = out + ((group.column + column // columns * columns) * blocks + block * columns) * size
                write_column(place, columns, column % columns, scratch + 128 * column, 1, integer)
            index += count


@kernel
def _down(team: Team, weights: Weights, memory: Memory, layer: Record, x: int, out: int, stride: int) -> None:
    """Compute this worker's rows of each expert's down projection, one row of `out` per expert column."""
    enter(team.profile, DOWN)
    for item in claimed(team, memory.expert.used[0] * claims_of(layer.down)):
        multiply_claim(weights.tiles, layer.down, item, memory.expert, x, x, out, stride)
    if layer.whole:
        gather(team)
    else:
        barrier(team)


@kernel
def _add_experts(team: Team, sizes: ShardSizes, memory: Memory, tokens: int, whole: int) -> None:
    """hidden += sum over the experts, in the router's order, of share * output; ends with a gather."""
    enter(team.profile, ADD)
    own = memory.parts[sizes.worker]
    chunks = (own.width + ADD_CHUNK - 1) // ADD_CHUNK
    for item in claimed(team, tokens * chunks):
        token = item // chunks
        first = (item % chunks) * ADD_CHUNK
        for value in range(first, min(first + ADD_CHUNK, own.width), 16):
            total = splat(np.float32(0.0))
            for rank in range(sizes.active_experts):
                if memory.chosen[token, rank] == NOT_RUN:
                    break
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
    team: Team, sizes: ShardSizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Compute a layer's experts: own rows of all, or all rows of those that are this worker's in the step."""
    layer, tokens = weights.layers[index], step.header[0]
    own = memory.parts[sizes.worker]
    if sizes.routed:
        route_tokens(team, sizes, constants, weights, memory, step, index)
        x_integer, x_float = own.normed_integer, own.normed_float
        if tokens > 1:
            x_integer, x_float = memory.packed_integer.ctypes.data, memory.packed_float.ctypes.data
    else:
        norm, epsilon = layer.feed_forward_norm, constants.epsilon[0]
        enter(team.profile, FEED_FORWARD_NORM)
        prepare(team, memory, sizes.width, norm, epsilon, takes_integers(layer), takes_floats(layer))
        x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    enter(team.profile, GATE_UP)
    scratch = memory.scratch[team.thread].ctypes.data
    for item in claimed(team, memory.expert.used[0] * _claims_of_blocks(layer.gate)):
        _gate_and_up(weights.tiles, layer, memory.expert, item, x_integer, x_float, own.intermediate, scratch)
    if layer.whole:
        barrier(team)
        _down(team, weights, memory, layer, own.intermediate, own.output, 4 * sizes.width)
    else:
        x = memory.packed_integer.ctypes.data if layer.down.integer else memory.packed_float.ctypes.data
        x = collect(team, memory.parts, INTERMEDIATE, memory.expert, layer.down.integer, x)
        _down(team, weights, memory, layer, x, memory.down.ctypes.data, 4 * memory.down.shape[1])
    _add_experts(team, sizes, memory, tokens, layer.whole)
