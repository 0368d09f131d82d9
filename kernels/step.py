"""One step: the forward pass of a batch of token positions, compiled as a whole and run by all threads of all teams.

Phases are separated by barriers of the team; where one worker needs what the others made there is a gather (sync.py).
Per layer, `->` is a gather and `|` a barrier:

    normalise | q, k, v | rotate, store | attend -> quantise | output rows -> normalise | router | choose | pack |
    gate, up -> quantise | down | add to the residual stream ->

Owner computes: every output element is made by one thread of one worker, in one order of operations, and nothing is
summed across workers. So the bits do not depend on how the model, the batch or the work is shared out.
"""

from __future__ import annotations

import numpy as np

from numoe.kernels.activations import (
    copy_float_column,
    copy_floats,
    copy_integer_column,
    rms_norm,
    write_float_column,
    write_integer_column,
)
from numoe.kernels.attention import BLOCK, attend, store_key, store_value
from numoe.kernels.embedding import embed_row
from numoe.kernels.functions import silu_vector
from numoe.kernels.jit import kernel
from numoe.kernels.records import Constants, Floats, Grouping, Memory, Sizes, StepInput, Weights
from numoe.kernels.rope import rotate
from numoe.kernels.router import choose_experts, group_all, group_by_expert, width_for
from numoe.kernels.sampling import draw, log_sum_exp, penalise
from numoe.kernels.simd import add, fma, load_f32x16, mul, splat, store_f32x16
from numoe.kernels.sync import Team, arrive, atomic_add, atomic_load, barrier, claim, clock_ns, futex_wake, gather, release, wait_while
from numoe.kernels.tiles import F16_TILE, F32_TILE, WIDTHS, run_tile

HIDDEN, ATTENTION, INTERMEDIATE = range(3)  # what a row is gathered from
CLAIM_BYTES = 65536  # of weights per claim: 3 microseconds at 20 GB/s, against 0.1 for the claim
GROUPS_AT_ONCE = 16  # groups that go over one panel before the next panel: 128 columns of 2048 are 320 kB, inside L2
ADD_CHUNK = 512  # values of the residual stream per claim


@kernel
def _gather_row(row: int, parts: np.void, kind: int, index: int) -> None:
    """Assemble row `index` from the slices of all workers."""
    for worker in range(parts.shape[0]):
        part = parts[worker]
        if kind == HIDDEN:
            address, width = part.hidden, part.width
        elif kind == ATTENTION:
            address, width = part.attention, part.attention_width
        else:
            address, width = part.intermediate, part.expert_width
        copy_floats(row, address + 4 * width * index, width)
        row += 4 * width


@kernel
def _prepare(
    team: Team,
    memory: Memory,
    kind: int,
    grouping: Grouping,
    source: np.ndarray,  # type: ignore[type-arg]  # [columns] row of each column
    width: int,
    norm: int,  # address of RMSNorm weights, 0: no norm
    epsilon: float,
    integer: int,
    floating: int,
    x_integer: int,
    x_float: int,
) -> None:
    """Gather each column's row, normalise it, and write it into its group in the forms that are needed."""
    row = memory.rows[team.thread].ctypes.data
    blocks = width // 32
    column = claim(team)
    while column < grouping.used[1]:
        number = grouping.column_group[column]
        if number >= 0:
            group = grouping.groups[number]
            _gather_row(row, memory.parts, kind, source[column])
            if norm != 0:
                rms_norm(row, norm, width, epsilon)
            first = group.column * blocks
            columns = WIDTHS[group.width]
            if integer:
                write_integer_column(x_integer + first * 40, columns, column - group.column, row, blocks)
            if floating:
                write_float_column(x_float + first * 128, columns, column - group.column, row, blocks)
        column = claim(team)
    barrier(team)


@kernel
def _chunk(matrix: np.void) -> int:
    """Panels per claim."""
    return max(1, CLAIM_BYTES // matrix.panel_bytes)


@kernel
def _chunks(matrix: np.void) -> int:
    """Claims that a matrix is shared out in."""
    chunk = _chunk(matrix)
    return (matrix.panels + chunk - 1) // chunk


@kernel
def _run(
    tiles: np.ndarray,  # type: ignore[type-arg]
    matrix: np.void,
    expert: int,
    panel: int,
    width: int,
    x: int,  # address of the groups
    column: int,  # where the group starts
    out: int,
    stride: int,
) -> None:
    """One panel of one expert times one group."""
    run_tile(
        tiles[matrix.tile, width],
        matrix.address + expert * matrix.expert_bytes + panel * matrix.panel_bytes,
        matrix.blocks,
        x + column * matrix.blocks * (40 if matrix.integer else 128),
        out,
        stride,
    )


@kernel
def _multiply(
    tiles: np.ndarray,  # type: ignore[type-arg]
    matrix: np.void,
    expert: int,
    first_panel: int,
    last_panel: int,
    grouping: Grouping,
    first_group: int,
    last_group: int,
    x: int,
    out: int,  # address of column 0, row 0 of panel 0
    stride: int,  # bytes between columns of out
) -> None:
    """Some panels of one expert times some groups."""
    for start in range(first_group, last_group, GROUPS_AT_ONCE):
        for panel in range(first_panel, last_panel):
            for index in range(start, min(start + GROUPS_AT_ONCE, last_group)):
                group = grouping.groups[index]
                place = out + group.column * stride + 64 * panel
                _run(tiles, matrix, expert, panel, group.width, x, group.column, place, stride)


@kernel
def _multiply_chunk(
    tiles: np.ndarray,  # type: ignore[type-arg]
    matrix: np.void,
    item: int,
    grouping: Grouping,
    x_integer: int,
    x_float: int,
    out: int,
    stride: int,
) -> None:
    """Claim `item` of a matrix: segments outermost, then chunks of panels."""
    chunks = _chunks(matrix)
    segment = grouping.segments[item // chunks]
    first = (item % chunks) * _chunk(matrix)
    last = min(first + _chunk(matrix), matrix.panels)
    x = x_integer if matrix.integer else x_float
    end = segment.first_group + segment.groups
    _multiply(tiles, matrix, segment.expert, first, last, grouping, segment.first_group, end, x, out, stride)


@kernel
def _embed(team: Team, sizes: Sizes, weights: Weights, memory: Memory, step: StepInput) -> None:
    """Rows of the embedding by the owner of the vocabulary row; then every worker takes its slice as residual stream."""
    tokens = step.header[0]
    own = memory.parts[sizes.worker]
    token = claim(team)
    while token < tokens:
        row = step.token_ids[token] - sizes.first_vocabulary
        if 0 <= row < sizes.own_vocabulary:
            address = weights.embedding.ctypes.data + row * sizes.embedding_row_bytes
            embed_row(own.embedding + 4 * sizes.width * token, address, sizes.embedding_tile, sizes.width)
        token = claim(team)
    gather(team)
    first = 0
    for worker in range(sizes.worker):
        first += memory.parts[worker].width
    token = claim(team)
    while token < tokens:
        for worker in range(sizes.workers):
            part = memory.parts[worker]
            if 0 <= step.token_ids[token] - part.first_vocabulary < part.vocabulary:
                source = part.embedding + 4 * (sizes.width * token + first)
                copy_floats(own.hidden + 4 * own.width * token, source, own.width)
        token = claim(team)
    gather(team)


@kernel
def _project_qkv(team: Team, sizes: Sizes, weights: Weights, memory: Memory, layer: np.void) -> None:
    """Rows of the queries, keys and values of own heads, side by side in memory.qkv."""
    q, k, v = layer.q, layer.k, layer.v
    q_items, k_items, v_items = _chunks(q), _chunks(k), _chunks(v)
    stride = 4 * memory.qkv.shape[1]
    x_integer, x_float, out = memory.x_integer.ctypes.data, memory.x_float.ctypes.data, memory.qkv.ctypes.data
    item = claim(team)
    while item < q_items + k_items + v_items:
        if item < q_items:
            _multiply_chunk(weights.tiles, q, item, memory.dense, x_integer, x_float, out, stride)
        elif item < q_items + k_items:
            place = out + 4 * q.rows
            _multiply_chunk(weights.tiles, k, item - q_items, memory.dense, x_integer, x_float, place, stride)
        else:
            place = out + 4 * (q.rows + k.rows)
            _multiply_chunk(weights.tiles, v, item - q_items - k_items, memory.dense, x_integer, x_float, place, stride)
        item = claim(team)
    barrier(team)


@kernel
def _add_vector(out: int, vector: int, count: int) -> None:
    for value in range(0, count, 16):
        store_f32x16(out + 4 * value, add(load_f32x16(out + 4 * value), load_f32x16(vector + 4 * value)))


@kernel
def _place_head(
    sizes: Sizes, constants: Constants, memory: Memory, step: StepInput, layer: np.void, index: int, token: int, item: int
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
        _add_vector(address, bias + 4 * size * (item if kv_head < 0 else kv_head), size)
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
    sizes: Sizes, weights: Weights, memory: Memory, step: StepInput, scratch: Floats, index: int, token: int, kv_head: int
) -> None:
    """The own query heads of one token that share one KV head, a tile of them at a time."""
    shared = sizes.query_heads // sizes.kv_heads
    first = max((sizes.first_kv_head + kv_head) * shared, sizes.first_query_head)
    last = min((sizes.first_kv_head + kv_head + 1) * shared, sizes.first_query_head + sizes.own_query_heads)
    tile = F16_TILE if sizes.kv_half else F32_TILE
    kv = memory.kv + (index * sizes.kv_blocks * sizes.own_kv_heads + kv_head) * memory.kv_block_bytes
    table = step.kv_tables[step.token_sequence[token]]
    own = memory.parts[sizes.worker]
    size, widest = sizes.head_size, WIDTHS[len(WIDTHS) - 1]
    for head in range(first, last, widest):
        used = min(last - head, widest)
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
def _attention(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Own heads of a layer's attention; ends with the gather of their outputs."""
    layer = weights.layers[index]
    tokens = step.header[0]
    integer = layer.q.integer | layer.k.integer | layer.v.integer
    floating = (1 - layer.q.integer) | (1 - layer.k.integer) | (1 - layer.v.integer)
    _prepare(
        team, memory, HIDDEN, memory.dense, memory.dense.source, sizes.width, layer.attention_norm,
        constants.epsilon[0], integer, floating, memory.x_integer.ctypes.data, memory.x_float.ctypes.data,
    )  # fmt: skip
    _project_qkv(team, sizes, weights, memory, layer)
    heads = sizes.own_query_heads + 2 * sizes.own_kv_heads
    item = claim(team)
    while item < tokens * heads:
        _place_head(sizes, constants, memory, step, layer, index, item // heads, item % heads)
        item = claim(team)
    barrier(team)
    item = claim(team)
    while item < tokens * sizes.own_kv_heads:
        token, kv_head = item // sizes.own_kv_heads, item % sizes.own_kv_heads
        _attend_heads(sizes, weights, memory, step, memory.scratch[team.thread], index, token, kv_head)
        item = claim(team)
    gather(team)


@kernel
def _attention_output(team: Team, sizes: Sizes, weights: Weights, memory: Memory, layer: np.void) -> None:
    """Own rows of the output projection, added to the own slice of the residual stream."""
    matrix = layer.output
    own = memory.parts[sizes.worker]
    x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    _prepare(
        team, memory, ATTENTION, memory.dense, memory.dense.source, sizes.query_heads * sizes.head_size, 0,
        np.float32(0.0), matrix.integer, 1 - matrix.integer, x_integer, x_float,
    )  # fmt: skip
    out, stride = memory.down.ctypes.data, 4 * own.width
    chunk, items = _chunk(matrix), _chunks(matrix)
    item = claim(team)
    while item < items:
        _multiply_chunk(weights.tiles, matrix, item, memory.dense, x_integer, x_float, out, stride)
        first, last = 16 * chunk * item, min(16 * chunk * (item + 1), own.width)
        for token in range(memory.dense.used[1]):
            if memory.dense.column_group[token] >= 0:
                _add_vector(own.hidden + stride * token + 4 * first, out + stride * token + 4 * first, last - first)
        item = claim(team)
    gather(team)


@kernel
def _route(team: Team, sizes: Sizes, weights: Weights, memory: Memory, step: StepInput, index: int) -> None:
    """Router logits, the experts of each token, and the tokens of each expert, packed into groups."""
    layer = weights.layers[index]
    tokens = step.header[0]
    stride = 4 * memory.router_logits.shape[1]
    x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    out = memory.router_logits.ctypes.data
    item = claim(team)
    while item < _chunks(layer.router):
        _multiply_chunk(weights.tiles, layer.router, item, memory.dense, x_integer, x_float, out, stride)
        item = claim(team)
    barrier(team)
    token = claim(team)
    while token < tokens:
        choose_experts(memory.chosen[token], memory.shares[token], memory.router_logits[token], sizes.experts)
        token = claim(team)
    if arrive(team):
        group_by_expert(
            memory.expert, memory.columns, memory.counts, memory.chosen, memory.expert_hits[index], tokens
        )
        expert_bytes = layer.gate.expert_bytes + layer.up.expert_bytes + layer.down.expert_bytes
        memory.counters[0].bytes_read += memory.expert.used[0] * expert_bytes
        release(team)
    if tokens > 1:
        _pack(team, memory, sizes.width // 32, layer)


@kernel
def _pack(team: Team, memory: Memory, blocks: int, layer: np.void) -> None:
    """Copy each token's column into the groups of its experts."""
    integer = layer.gate.integer | layer.up.integer
    floating = (1 - layer.gate.integer) | (1 - layer.up.integer)
    column = claim(team)
    while column < memory.expert.used[1]:
        number = memory.expert.column_group[column]
        if number >= 0:
            group = memory.expert.groups[number]
            token = memory.expert.source[column]
            origin = memory.dense.groups[memory.dense.column_group[token]]
            columns, from_columns = WIDTHS[group.width], WIDTHS[origin.width]
            first, from_first = group.column * blocks, origin.column * blocks
            at, from_at = column - group.column, token - origin.column
            if integer:
                place = memory.packed_integer.ctypes.data + first * 40
                source = memory.x_integer.ctypes.data + from_first * 40
                copy_integer_column(place, columns, at, source, from_columns, from_at, blocks)
            if floating:
                place = memory.packed_float.ctypes.data + first * 128
                source = memory.x_float.ctypes.data + from_first * 128
                copy_float_column(place, columns, at, source, from_columns, from_at, blocks)
        column = claim(team)
    barrier(team)


@kernel
def _gate_and_up(
    tiles: np.ndarray,  # type: ignore[type-arg]
    layer: np.void,
    grouping: Grouping,
    item: int,
    x_integer: int,
    x_float: int,
    out: int,  # [columns, f] float32, written
    scratch: int,  # of the thread, 2 tiles
) -> None:
    """silu(gate x) * (up x) for one claim of an expert's rows."""
    gate, up = layer.gate, layer.up
    chunks = _chunks(gate)
    segment = grouping.segments[item // chunks]
    first = (item % chunks) * _chunk(gate)
    stride = 4 * gate.rows
    x_gate, x_up = x_integer if gate.integer else x_float, x_integer if up.integer else x_float
    second = scratch + 4 * 8 * 16
    for panel in range(first, min(first + _chunk(gate), gate.panels)):
        for index in range(segment.first_group, segment.first_group + segment.groups):
            group = grouping.groups[index]
            _run(tiles, gate, segment.expert, panel, group.width, x_gate, group.x_column, scratch, 64)
            _run(tiles, up, segment.expert, panel, group.width, x_up, group.x_column, second, 64)
            for column in range(group.count):
                activated = silu_vector(load_f32x16(scratch + 64 * column))
                product = mul(activated, load_f32x16(second + 64 * column))
                store_f32x16(out + stride * (group.column + column) + 64 * panel, product)


@kernel
def _add_experts(team: Team, sizes: Sizes, memory: Memory, tokens: int) -> None:
    """hidden += sum over the experts, in the router's order, of share * output; ends with a gather."""
    own = memory.parts[sizes.worker]
    chunks = (own.width + ADD_CHUNK - 1) // ADD_CHUNK
    down, row = memory.down.ctypes.data, 4 * own.width
    item = claim(team)
    while item < tokens * chunks:
        token = item // chunks
        first = (item % chunks) * ADD_CHUNK
        for value in range(first, min(first + ADD_CHUNK, own.width), 16):
            total = splat(np.float32(0.0))
            for rank in range(sizes.active_experts):
                output = load_f32x16(down + row * memory.columns[token, rank] + 4 * value)
                total = fma(splat(memory.shares[token, rank]), output, total)
            place = own.hidden + row * token + 4 * value
            store_f32x16(place, add(load_f32x16(place), total))
        item = claim(team)
    gather(team)


@kernel
def _feed_forward(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Own rows of the experts of a layer."""
    layer = weights.layers[index]
    integer = layer.gate.integer | layer.up.integer
    floating = (1 - layer.gate.integer) | (1 - layer.up.integer) | sizes.routed
    x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    _prepare(
        team, memory, HIDDEN, memory.dense, memory.dense.source, sizes.width, layer.feed_forward_norm,
        constants.epsilon[0], integer, floating, x_integer, x_float,
    )  # fmt: skip
    if sizes.routed:
        _route(team, sizes, weights, memory, step, index)
        if step.header[0] > 1:
            x_integer, x_float = memory.packed_integer.ctypes.data, memory.packed_float.ctypes.data
    own = memory.parts[sizes.worker]
    scratch = memory.scratch[team.thread].ctypes.data
    items = memory.expert.used[0] * _chunks(layer.gate)
    item = claim(team)
    while item < items:
        _gate_and_up(weights.tiles, layer, memory.expert, item, x_integer, x_float, own.intermediate, scratch)
        item = claim(team)
    gather(team)
    x_integer, x_float = memory.packed_integer.ctypes.data, memory.packed_float.ctypes.data
    _prepare(
        team, memory, INTERMEDIATE, memory.expert, memory.identity, sizes.expert_width, 0,
        np.float32(0.0), layer.down.integer, 1 - layer.down.integer, x_integer, x_float,
    )  # fmt: skip
    _down(team, weights, memory, layer, x_integer, x_float, 4 * own.width)
    _add_experts(team, sizes, memory, step.header[0])


@kernel
def _down(
    team: Team, weights: Weights, memory: Memory, layer: np.void, x_integer: int, x_float: int, stride: int
) -> None:
    """Own rows of each expert's down projection, one row of memory.down per expert column."""
    item = claim(team)
    while item < memory.expert.used[0] * _chunks(layer.down):
        _multiply_chunk(
            weights.tiles, layer.down, item, memory.expert, x_integer, x_float, memory.down.ctypes.data, stride
        )
        item = claim(team)
    barrier(team)


@kernel
def _begin(sizes: Sizes, memory: Memory, step: StepInput) -> None:
    """By one thread: the groups of the step's tokens, and for a dense feed-forward the one expert of all."""
    tokens = step.header[0]
    group_all(memory.dense, tokens)
    memory.dense.source[:tokens] = memory.identity[:tokens]
    if not sizes.routed:
        group_all(memory.expert, tokens)
        memory.columns[:tokens, 0] = memory.identity[:tokens]
        memory.shares[:tokens, 0] = 1.0


@kernel
def _logits(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput
) -> None:
    """Own vocabulary rows of the logits of the tokens that are drawn from; ends with a gather."""
    samples = step.header[2]
    matrix = weights.head[0]
    if arrive(team):
        group_all(memory.dense, samples)
        for sample in range(samples):
            memory.dense.source[sample] = step.samples[sample].token
        release(team)
    x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    _prepare(
        team, memory, HIDDEN, memory.dense, memory.dense.source, sizes.width, weights.output_norm.ctypes.data,
        constants.epsilon[0], matrix.integer, 1 - matrix.integer, x_integer, x_float,
    )  # fmt: skip
    own = memory.parts[sizes.worker]
    item = claim(team)
    while item < _chunks(matrix):
        _multiply_chunk(
            weights.tiles, matrix, item, memory.dense, x_integer, x_float, own.logits, 64 * matrix.panels
        )
        item = claim(team)
    gather(team)


@kernel
def _draw_tokens(team: Team, sizes: Sizes, memory: Memory, step: StepInput) -> None:
    """Each sample by one thread of one worker: assemble its logits, draw, note the token and its log-probability."""
    logits, ids = memory.candidates[team.thread], memory.candidate_ids[team.thread]
    number = sizes.worker + sizes.workers * claim(team)
    while number < step.header[2]:
        address = logits.ctypes.data
        for worker in range(sizes.workers):
            part = memory.parts[worker]
            padded = (part.vocabulary + 15) // 16 * 16
            copy_floats(address + 4 * part.first_vocabulary, part.logits + 4 * padded * number, padded)
        logits[sizes.vocabulary :] = -np.inf
        sample = step.samples[number]
        normaliser = log_sum_exp(logits)
        penalise(logits, sample, step.seen_tokens, step.seen_counts)
        token = draw(logits, ids, sample, sizes.vocabulary)
        for worker in range(sizes.workers):
            part = memory.parts[worker]
            row = token - part.first_vocabulary
            if 0 <= row < part.vocabulary:
                padded = (part.vocabulary + 15) // 16 * 16
                copy_floats(logits.ctypes.data, part.logits + 4 * (padded * number + row // 16 * 16), 16)
                step.drawn_logprobs[number] = logits[row % 16] - normaliser
        step.drawn_tokens[number] = token
        number = sizes.worker + sizes.workers * claim(team)
    gather(team)


@kernel
def run_step(
    team: Team, sizes: Sizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput
) -> None:
    """One forward pass, by one thread of a team."""
    if arrive(team):
        _begin(sizes, memory, step)
        release(team)
    _embed(team, sizes, weights, memory, step)
    for index in range(sizes.layers):
        _attention(team, sizes, constants, weights, memory, step, index)
        _attention_output(team, sizes, weights, memory, weights.layers[index])
        _feed_forward(team, sizes, constants, weights, memory, step, index)
    if step.header[2] > 0:
        _logits(team, sizes, constants, weights, memory, step)
        _draw_tokens(team, sizes, memory, step)


@kernel
def _dense_bytes(sizes: Sizes, weights: Weights) -> int:
    """Bytes of weights that every step reads, whatever the router chooses."""
    total = weights.head[0].expert_bytes
    for index in range(sizes.layers):
        layer = weights.layers[index]
        total += layer.q.expert_bytes + layer.k.expert_bytes + layer.v.expert_bytes + layer.output.expert_bytes
        if sizes.routed:
            total += layer.router.expert_bytes
        else:
            total += layer.gate.expert_bytes + layer.up.expert_bytes + layer.down.expert_bytes
    return total


@kernel
def serve_steps(
    team: Team,
    sizes: Sizes,
    constants: Constants,
    weights: Weights,
    memory: Memory,
    step: StepInput,
    step_word: int,  # address of the number of the last step published, and of how many sleep on it
    step_sleepers: int,
    done_word: int,  # address of the number of the last step done
    idle_spins: int,
) -> None:
    """Run every step that is published, until the abort word is set; then StepAborted."""
    seen = np.int32(0)
    dense_bytes = _dense_bytes(sizes, weights)
    while True:
        wait_while(step_word, seen, step_sleepers, team.abort, idle_spins, 0)
        seen = atomic_load(step_word)
        started = clock_ns()
        run_step(team, sizes, constants, weights, memory, step)
        if team.thread == 0:
            memory.counters[0].steps += 1
            memory.counters[0].tokens += step.header[0]
            memory.counters[0].bytes_read += dense_bytes
            memory.counters[0].step_ns += clock_ns() - started
            if sizes.worker == 0:
                atomic_add(done_word, 1)
                futex_wake(done_word)
