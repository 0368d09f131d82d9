"""The memory that the compiled step works in: the step slot and the parts of the arena, and buffers of the shard."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.kv_cache import kv_block_bytes
from numoe.kernels.attention.piece_list import most_pieces
from numoe.kernels.attention.scratch import row_floats, scratch_floats
from numoe.kernels.experts.phases import GATE_AND_UP_FLOATS
from numoe.kernels.experts.router import PARTS as ROUTER_PARTS
from numoe.kernels.matmul.column_groups import GROUPS_AT_ONCE
from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES
from numoe.kernels.records import BUCKETS, GROUP, LISTED, PART, SEGMENT, TOGETHER, Grouping, Memory, StepInput
from numoe.kernels.threads.profile import CELLS, END, EVENTS
from numoe.kernels.weights.file_blocks import UNPACKED_BYTES
from numoe.kernels.weights.formats import BLOCK, ROWS
from numoe.model.planning.assignment import WorkerAssignment
from numoe.protos.arena import ArenaLayout, dense_columns, expert_columns, whole_panels
from numoe.worker.placing.memory import allocate
from numoe.worker.running.step_records import kv_formats

Views = NDArray[np.uint8]


def step_input(layout: ArenaLayout, arena: Views) -> StepInput:
    """The step slot of the arena."""
    return StepInput(*(layout.view(arena, name) for name in StepInput._fields))


def profile_states(assignment: WorkerAssignment, layout: ArenaLayout, arena: Views) -> NDArray[np.int64]:
    """Where each thread notes its time, with the addresses of all in it: see kernels/threads/profile.py."""
    own = f"worker{assignment.worker}.profile_"
    state, cells, events = (layout.view(arena, own + name) for name in ("state", "cells", "events"))
    for thread in range(len(state)):
        state[thread, CELLS // 8] = cells[thread].ctypes.data
        state[thread, EVENTS // 8] = events[thread].ctypes.data
        state[thread, END // 8] = events[thread].ctypes.data + events[thread].nbytes
    return state


def _parts(assignment: WorkerAssignment, layout: ArenaLayout, arena: Views) -> NDArray[np.void]:
    """What each worker writes and all read, as PART records."""
    parts = np.zeros(len(assignment.plan.shards), PART)
    for worker, shard in enumerate(assignment.plan.shards):
        part = parts[worker]
        for name in PART.names or ():
            if PART[name] == np.uintp:
                part[name] = layout.view(arena, f"worker{worker}.{name}").ctypes.data
        part["first_vocabulary"] = shard.vocabulary.start
        part["width"] = shard.width_rows.size
        part["attention_width"] = shard.heads.size * assignment.spec.head_size
        part["expert_width"] = shard.expert_rows.size
        part["vocabulary"] = shard.vocabulary.size
    return parts


def _grouping(columns: int, experts: int) -> Grouping:
    """Room to group so many columns of so many experts."""
    return Grouping(
        groups=np.zeros(columns, GROUP),
        segments=np.zeros(experts + columns // GROUPS_AT_ONCE, SEGMENT),
        column_group=np.full(columns, -1, np.int32),
        source=np.zeros(columns, np.int32),
        used=np.zeros(2, np.int32),
    )


def _groups(columns: int, values: int, block_bytes: int) -> NDArray[np.uint8]:
    """Room for columns of so many values, in groups of integers or of floats."""
    return allocate(columns * (values // BLOCK) * block_bytes)


def _floats(*shape: int) -> NDArray[np.float32]:
    size = int(np.prod(shape))
    return allocate(max(1, size) * 4).view(np.float32)[:size].reshape(shape)


def _spread(rows: int, values: int) -> NDArray[np.float32]:
    """Rows of `values` floats and more, an odd number of cache lines apart, see Memory."""
    return _floats(rows, ROWS * (-(-values // ROWS) | 1))


def _ints(*shape: int) -> NDArray[np.int32]:
    return np.zeros(shape, np.int32)


def memory_of(assignment: WorkerAssignment, layout: ArenaLayout, arena: Views, kv: Views) -> Memory:
    """The working memory of the compiled step."""
    spec, limits, shard = assignment.spec, assignment.limits, assignment.shard
    threads = len(shard.cpus)
    tokens = max(limits.step_tokens, limits.sequences)
    dense = dense_columns(tokens)
    experts = expert_columns(tokens, spec.active_experts, spec.experts)
    longest = max(spec.width, spec.query_heads * spec.head_size, spec.expert_width)
    own = f"worker{assignment.worker}."
    packed = max(spec.width, spec.expert_width)
    heads = shard.heads.size + 2 * shard.kv_heads.size
    groups = -(-spec.vocabulary // TOGETHER) if spec.draws else 0
    of_tokens = _grouping(dense, 1)
    heads_per_kv = spec.query_heads // spec.kv_heads
    pieces = most_pieces(threads, shard.kv_heads.size, limits.context_tokens) if threads > 1 else 0
    return Memory(
        kv=kv.ctypes.data,
        kv_block_bytes=kv_block_bytes(spec.head_size, *kv_formats(assignment)),
        parts=_parts(assignment, layout, arena),
        x_integer=_groups(dense, longest, INTEGER_BYTES),
        x_float=_groups(dense, longest, FLOAT_BYTES),
        packed_integer=_groups(experts, packed, INTEGER_BYTES),
        packed_float=_groups(experts, packed, FLOAT_BYTES),
        qkv=_spread(dense, heads * spec.head_size),
        router_logits=_floats(dense, ROUTER_PARTS, whole_panels(spec.experts)),
        down=_spread(experts, shard.width_rows.size),
        rows=_floats(threads, longest),
        scratch=_floats(threads, max(scratch_floats(spec.head_size, heads_per_kv), GATE_AND_UP_FLOATS)),
        piece_rows=_floats(pieces * shard.heads.size, row_floats(spec.head_size)),
        piece_tokens=_ints(pieces),
        piece_starts=_ints(tokens + 1),
        unpacked=np.zeros((threads, UNPACKED_BYTES), np.uint8),
        chosen=layout.view(arena, own + "chosen"),
        shares=layout.view(arena, own + "shares"),
        routed_starts=_ints(len(assignment.plan.shards) + 1),
        columns=_ints(tokens, spec.active_experts),
        counts=_ints(spec.experts),
        loads=_ints(len(assignment.plan.shards)),
        owners=_ints(spec.experts),
        dense=of_tokens,
        routed=of_tokens._replace(segments=np.zeros_like(of_tokens.segments), used=_ints(2)),
        expert=_grouping(experts, spec.experts),
        counters=layout.view(arena, own + "counters"),
        step_bytes=layout.view(arena, own + "step_bytes"),
        chosen_bytes=layout.view(arena, own + "chosen_bytes"),
        expert_hits=layout.view(arena, own + "expert_hits"),
        candidates=_floats(threads, groups * TOGETHER),
        candidate_groups=_floats(threads, 2, whole_panels(groups)),
        candidate_values=_floats(threads, LISTED),
        candidate_ids=_ints(threads, LISTED),
        candidate_buckets=np.zeros((threads, 2, BUCKETS)),
    )
