"""Routing of a step's tokens: they are normalised, experts are chosen, and columns packed into the experts' groups."""

from __future__ import annotations

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.experts.grouping import count_choices, count_run, group_by_expert
from numoe.kernels.experts.router import PARTS, choose_experts
from numoe.kernels.experts.sharing import SHARED_TOKENS, assign_experts
from numoe.kernels.matmul.activations import copy_column, write_float_column, write_integer_column
from numoe.kernels.matmul.claims import run_panel_part
from numoe.kernels.matmul.columns import normalise, pieces_of_columns
from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES, WIDTHS
from numoe.kernels.matmul.vectors import copy_bytes
from numoe.kernels.records import Constants, Memory, Record, ShardSizes, StepInput, TileTable, Weights
from numoe.kernels.threads.profile import CHOOSE, DOWN, FEED_FORWARD_NORM, GATE_UP, ROUTER, enter
from numoe.kernels.threads.team import Team, arrive, barrier, claimed, gather, release
from numoe.kernels.weights.formats import BLOCK


@kernel
def takes_integers(layer: Record) -> int:
    """Whether gate or up takes columns of integers."""
    return layer.gate.integer | layer.up.integer


@kernel
def takes_floats(layer: Record) -> int:
    """Whether gate or up takes columns of floats."""
    return 1 - (layer.gate.integer & layer.up.integer)


@kernel
def _prepare_tokens(
    team: Team, sizes: ShardSizes, constants: Constants, memory: Memory, layer: Record, first: int, last: int
) -> None:
    """Normalise own tokens: each as a column by itself, for any of its experts, and in groups for the router."""
    own, blocks = memory.parts[sizes.worker], sizes.width // BLOCK
    pieces = pieces_of_columns(team, last - first, blocks)
    for item in claimed(team, (last - first) * pieces):
        token, piece, row = first + item // pieces, item % pieces, memory.rows[team.thread].ctypes.data
        normalise(row, memory.parts, token, layer.feed_forward_norm, sizes.width, constants.epsilon[0])
        start, end = blocks * piece // pieces, blocks * (piece + 1) // pieces
        x, place = row + 4 * BLOCK * start, token * blocks + start
        if takes_integers(layer):
            write_integer_column(own.normed_integer + place * INTEGER_BYTES, 1, 0, x, end - start)
        if takes_floats(layer):
            write_float_column(own.normed_float + place * FLOAT_BYTES, 1, 0, x, end - start)
        group = memory.dense.groups[memory.dense.column_group[token]]
        columns = WIDTHS[group.width]
        place = memory.x_float.ctypes.data + (group.column * blocks + start * columns) * FLOAT_BYTES
        write_float_column(place, columns, token - group.column, x, end - start)
    barrier(team)


@kernel
def _run_router(tiles: TileTable, router: Record, memory: Memory, item: int) -> None:
    """Multiply a part of the inputs of one panel of the router by the groups of a segment."""
    segment, panel, part = memory.routed.segments[item // (router.panels * PARTS)], item // PARTS, item % PARTS
    panel %= router.panels
    out, row = memory.router_logits.ctypes.data, 4 * memory.router_logits.shape[2]
    for index in range(segment.first_group, segment.first_group + segment.groups):
        group = memory.routed.groups[index]
        place = out + row * (PARTS * group.column + part) + 64 * panel
        x = memory.x_float.ctypes.data
        run_panel_part(tiles, router, panel, part, PARTS, group, x, place, row * PARTS)


@kernel
def _choose(sizes: ShardSizes, memory: Memory, step: StepInput, token: int) -> None:
    sequence = step.token_sequence[token]
    choose_experts(
        memory.chosen[token],
        memory.shares[token],
        memory.router_logits[token],
        sizes.experts,
        step.fewest_experts[sequence],
        step.expert_threshold[sequence],
    )


@kernel
def _take(out: int, source: int, token: int, size: int) -> None:
    """Copy the `size` bytes that belong to a token."""
    copy_bytes(out + size * token, source + size * token, size)


@kernel
def _take_tokens(team: Team, sizes: ShardSizes, memory: Memory, layer: Record, tokens: int) -> None:
    """Copy the columns and choices of the tokens that other workers routed."""
    own, starts, blocks = memory.parts[sizes.worker], memory.routed_starts, sizes.width // BLOCK
    for token in claimed(team, tokens):
        worker = 0
        while starts[worker + 1] <= token:
            worker += 1
        if worker != sizes.worker:
            part = memory.parts[worker]
            if takes_integers(layer):
                _take(own.normed_integer, part.normed_integer, token, blocks * INTEGER_BYTES)
            if takes_floats(layer):
                _take(own.normed_float, part.normed_float, token, blocks * FLOAT_BYTES)
            _take(own.chosen, part.chosen, token, 4 * sizes.active_experts)
            _take(own.shares, part.shares, token, 4 * sizes.active_experts)


@kernel
def route_tokens(
    team: Team, sizes: ShardSizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Normalise and route own tokens, and pack those of each expert into groups."""
    layer, tokens = weights.layers[index], step.header[0]
    shared, first, last = memory.routed_starts[SHARED_TOKENS] > 0, 0, tokens
    if shared:
        first, last = memory.routed_starts[sizes.worker], memory.routed_starts[sizes.worker + 1]
    enter(team.profile, FEED_FORWARD_NORM)
    _prepare_tokens(team, sizes, constants, memory, layer, first, last)
    enter(team.profile, ROUTER)
    for item in claimed(team, memory.routed.used[0] * layer.router.panels * PARTS):
        _run_router(weights.tiles, layer.router, memory, item)
    alone = tokens == 1 and not shared  # by one thread anyway: it chooses where all have come
    if not alone:
        barrier(team)
        enter(team.profile, CHOOSE)
        for item in claimed(team, last - first):
            _choose(sizes, memory, step, first + item)
    if shared:
        gather(team)
        _take_tokens(team, sizes, memory, layer, tokens)
    if arrive(team):
        if alone:
            _choose(sizes, memory, step, 0)
        count_choices(memory.counts, memory.expert_hits[index], memory.chosen, tokens)
        if sizes.worker == 0:
            count_run(step.experts_run, step.token_sequence, memory.chosen, tokens)
        worker = -1
        if layer.whole:
            worker = sizes.worker
            assign_experts(memory.owners, memory.loads, memory.counts, step.expert_holders[index])
        group_by_expert(memory.expert, memory.columns, memory.counts, memory.chosen, tokens, memory.owners, worker)
        gate_up, down = layer.gate.expert_bytes + layer.up.expert_bytes, layer.down.expert_bytes
        memory.chosen_bytes[GATE_UP] += memory.expert.used[0] * gate_up
        memory.chosen_bytes[DOWN] += memory.expert.used[0] * down
        memory.counters[0].bytes_begun += memory.expert.used[0] * (gate_up + down)
        release(team)
    if tokens > 1:
        _pack_columns(team, sizes, memory, layer)


@kernel
def _pack_columns(team: Team, sizes: ShardSizes, memory: Memory, layer: Record) -> None:
    """Copy each token's column into the groups of its experts."""
    own, blocks = memory.parts[sizes.worker], sizes.width // BLOCK
    for column in claimed(team, memory.expert.used[1]):
        number = memory.expert.column_group[column]
        if number >= 0:
            group, token = memory.expert.groups[number], memory.expert.source[column]
            columns, first, at = WIDTHS[group.width], group.column * blocks, column - group.column
            if takes_integers(layer):
                place = memory.packed_integer.ctypes.data + first * INTEGER_BYTES
                source = own.normed_integer + token * blocks * INTEGER_BYTES
                copy_column(place, columns, at, source, blocks, INTEGER_BYTES)
            if takes_floats(layer):
                place = memory.packed_float.ctypes.data + first * FLOAT_BYTES
                source = own.normed_float + token * blocks * FLOAT_BYTES
                copy_column(place, columns, at, source, blocks, FLOAT_BYTES)
    barrier(team)
