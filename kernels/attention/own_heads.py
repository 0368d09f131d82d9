"""Attention of own heads: whole tokens, or pieces of contexts, are shared out to the threads."""

from __future__ import annotations

from numoe.kernels.attention.heads import Queries, attend, begin_head, end_head, merge_piece
from numoe.kernels.attention.piece_list import SHARED_PIECES
from numoe.kernels.attention.pieces import CachedHead, attend_piece, pieces_of, write_queries
from numoe.kernels.attention.scratch import MOST_HEADS, MOST_TOKENS, ROW_HEAD, scratch_of
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.activations import block_bytes, write_column
from numoe.kernels.matmul.column_groups import width_over
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.records import Floats, Memory, ShardSizes, StepInput, Weights
from numoe.kernels.threads.team import Team, barrier, claimed
from numoe.kernels.weights.formats import BLOCK

RUNS_OF_A_THREAD = 8  # at least, if there are so many: the last to end one keeps the others waiting


@kernel
def _cached_head(sizes: ShardSizes, memory: Memory, index: int, kv_head: int) -> CachedHead:
    """An own KV head of layer `index`."""
    first = memory.kv + (index * sizes.kv_blocks * sizes.own_kv_heads + kv_head) * memory.kv_block_bytes
    stride = sizes.own_kv_heads * memory.kv_block_bytes
    return CachedHead(first, stride, sizes.key_format, sizes.value_format, sizes.head_size)


@kernel
def _own_heads(sizes: ShardSizes, kv_head: int) -> tuple[int, int]:
    """The first of the own query heads that share an own KV head, and how many they are."""
    shared = sizes.query_heads // sizes.kv_heads
    first = max((sizes.first_kv_head + kv_head) * shared, sizes.first_query_head)
    last = min((sizes.first_kv_head + kv_head + 1) * shared, sizes.first_query_head + sizes.own_query_heads)
    return first - sizes.first_query_head, last - first


@kernel
def _write_heads(sizes: ShardSizes, memory: Memory, token: int, first: int, heads: int, x: int, integer: int) -> None:
    """Write finished own heads [heads, K] of a token into its group, of which this worker holds own heads only."""
    own, group = memory.parts[sizes.worker], memory.dense.groups[memory.dense.column_group[token]]
    columns, blocks = WIDTHS[group.width], sizes.head_size // BLOCK
    start = group.column * sizes.own_query_heads * blocks + columns * first * blocks
    place = own.attention + start * block_bytes(integer)
    write_column(place, columns, token - group.column, x, heads * blocks, integer)


@kernel
def _attend_run(
    sizes: ShardSizes,
    weights: Weights,
    memory: Memory,
    step: StepInput,
    scratch: Floats,
    index: int,
    first: int,
    last: int,
    kv_head: int,
) -> None:
    """Compute the own query heads of tokens first .. last - 1 that share one KV head."""
    head, heads = _own_heads(sizes, kv_head)
    size, parts = sizes.head_size, scratch_of(scratch.ctypes.data, sizes.head_size, heads)
    queries = Queries(
        memory.qkv.ctypes.data + 4 * head * size,
        4 * memory.qkv.shape[1],
        step.positions,
        step.token_sequence,
        step.kv_tables,
    )
    attend(weights.tiles, _cached_head(sizes, memory, index, kv_head), queries, first, last, heads, parts)
    for token in range(first, last):
        out = parts.outputs + 4 * size * heads * (token - first)
        _write_heads(sizes, memory, token, head, heads, out, weights.layers[index].output.integer)


@kernel
def _attend_listed_piece(
    sizes: ShardSizes,
    weights: Weights,
    memory: Memory,
    step: StepInput,
    scratch: Floats,
    index: int,
    number: int,
    kv_head: int,
) -> None:
    """As `_attend_run`, but of one token one piece of the list only; its rows go to memory.piece_rows."""
    token = memory.piece_tokens[number]
    head, heads = _own_heads(sizes, kv_head)
    size, parts = sizes.head_size, scratch_of(scratch.ctypes.data, sizes.head_size, heads)
    queries = memory.qkv.ctypes.data + 4 * (token * memory.qkv.shape[1] + head * size)
    write_queries(parts.queries, queries, heads, sizes.key_format, size)
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
    sizes: ShardSizes,
    memory: Memory,
    step: StepInput,
    scratch: Floats,
    out: int,  # [K] float32 of the thread
    token: int,
    head: int,
    integer: int,
) -> None:
    """Merge all pieces of one token and own query head, and write the head."""
    size, state, first = sizes.head_size, scratch.ctypes.data, memory.piece_starts[token]
    begin_head(state, out, size)
    for number in range(first, first + pieces_of(step.positions[token])):
        row = memory.piece_rows.ctypes.data + 4 * (ROW_HEAD + size) * (number * sizes.own_query_heads + head)
        merge_piece(state, out, row, size)
    end_head(state, out, size)
    _write_heads(sizes, memory, token, head, 1, out, integer)


@kernel
def _tokens_together(threads: int, tokens: int, sequences: int, kv_heads: int) -> int:
    """How many tokens a thread takes over a context at once: not those of two sequences, and still enough for all."""
    return max(1, min(MOST_TOKENS, tokens // sequences, tokens * kv_heads // (RUNS_OF_A_THREAD * threads)))


@kernel
def attend_own_heads(
    team: Team, sizes: ShardSizes, weights: Weights, memory: Memory, step: StepInput, index: int
) -> None:
    """Compute all own heads of all tokens, shared out as `list_pieces` decided; `collect` has the barrier after it."""
    tokens, pieces = step.header[0], memory.piece_starts[SHARED_PIECES]
    scratch, out = memory.scratch[team.thread], memory.rows[team.thread].ctypes.data
    if pieces == 0:
        run = _tokens_together(team.threads, tokens, step.header[1], sizes.own_kv_heads)
        runs = (tokens + run - 1) // run
        for item in claimed(team, runs * sizes.own_kv_heads):  # head by head, whose positions then lie in the cache
            first = run * (item % runs)
            _attend_run(sizes, weights, memory, step, scratch, index, first, min(first + run, tokens), item // runs)
    else:
        for item in claimed(team, pieces * sizes.own_kv_heads):
            _attend_listed_piece(sizes, weights, memory, step, scratch, index, item % pieces, item // pieces)
        barrier(team)
        integer = weights.layers[index].output.integer
        for item in claimed(team, tokens * sizes.own_query_heads):
            token, head = item // sizes.own_query_heads, item % sizes.own_query_heads
            _merge_pieces(sizes, memory, step, scratch, out, token, head, integer)
