"""The attention half of a layer: own query heads of every token, then own rows of the output projection."""

from __future__ import annotations

from numoe.kernels.attention.kv_cache import KV_BLOCK
from numoe.kernels.attention.own_heads import attend_own_heads
from numoe.kernels.attention.qkv import place_heads, project_qkv
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.claims import claims_of, multiply_claim, panels_per_claim
from numoe.kernels.matmul.columns import ATTENTION, collect, prepare
from numoe.kernels.matmul.vectors import add_vector, copy_bytes
from numoe.kernels.records import Constants, Memory, Record, ShardSizes, StepInput, Weights
from numoe.kernels.threads.profile import ATTEND, ATTENTION_NORM, ATTENTION_OUTPUT, HEADS, QKV, enter
from numoe.kernels.threads.team import Team, barrier, claimed, gather

# Heads of a token per claim: a call that is given all memory costs 0.4 us, as Numba counts references to each array,
# and a head takes 0.1 us.
PLACED_AT_ONCE = 8
NO_BLOCK = -1  # as in protos/messages.py


@kernel
def copy_blocks(team: Team, sizes: ShardSizes, memory: Memory, step: StepInput) -> None:
    """Begin the KV blocks of some sequences' first positions as others are, in all layers: whole blocks are copied.

    One after the other, as what one copies may be what another one writes. Ends with a barrier.
    """
    size = sizes.own_kv_heads * memory.kv_block_bytes
    for layer in claimed(team, sizes.layers):
        first = memory.kv + layer * sizes.kv_blocks * size
        for token in range(step.header[0]):
            sequence = step.token_sequence[token]
            source = step.source_blocks[sequence]
            if source != NO_BLOCK and (token == 0 or step.token_sequence[token - 1] != sequence):
                own = step.kv_tables[sequence, step.positions[token] // KV_BLOCK]
                copy_bytes(first + own * size, first + source * size, size)
    barrier(team)


@kernel
def attention(
    team: Team, sizes: ShardSizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Compute own heads of layer `index`; `attention_output` begins with the gather of all."""
    layer = weights.layers[index]
    tokens = step.header[0]
    integer = layer.q.integer | layer.k.integer | layer.v.integer
    floating = (1 - layer.q.integer) | (1 - layer.k.integer) | (1 - layer.v.integer)
    enter(team.profile, ATTENTION_NORM)
    prepare(team, memory, sizes.width, layer.attention_norm, constants.epsilon[0], integer, floating)
    enter(team.profile, QKV)
    project_qkv(team, sizes, weights, memory, layer)
    enter(team.profile, HEADS)
    heads = sizes.own_query_heads + 2 * sizes.own_kv_heads
    chunks = (heads + PLACED_AT_ONCE - 1) // PLACED_AT_ONCE
    for item in claimed(team, tokens * chunks):
        first = PLACED_AT_ONCE * (item % chunks)
        last = min(first + PLACED_AT_ONCE, heads)
        place_heads(sizes, constants, memory, step, layer, index, item // chunks, first, last)
    barrier(team)
    enter(team.profile, ATTEND)
    attend_own_heads(team, sizes, weights, memory, step, index)


@kernel
def attention_output(team: Team, sizes: ShardSizes, weights: Weights, memory: Memory, layer: Record) -> None:
    """Compute own rows of the output projection of all heads, and add them to the own slice of the residual stream."""
    matrix = layer.output
    own = memory.parts[sizes.worker]
    x = memory.x_integer.ctypes.data if matrix.integer else memory.x_float.ctypes.data
    x = collect(team, memory.parts, ATTENTION, memory.dense, matrix.integer, x)
    enter(team.profile, ATTENTION_OUTPUT)
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
