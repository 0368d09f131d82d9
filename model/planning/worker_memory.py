"""The memory that a service takes, counted before anything is allocated: of each worker, and of all that runs beside.

    a worker    weights, KV cache | its part of the arena | the step's buffers, the table of rotations | its process
    the rest    the coordinator and Ray's own processes, on whatever node the kernel puts them

The arena's part is its layout's; the buffers are those of step_buffers.py. Processes are counted as measured: PSS of
real ones, with what they need for a while as they start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS, KvTypes
from numoe.model.planning.assignment import layout_of
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.step_buffers import buffer_bytes, touched_buffers
from numoe.protos.messages import StepLimits

MEBIBYTE = 1 << 20
HUGE_PAGES_BYTES = 11 * 2 * MEBIBYTE  # of large buffers: the last page of each, where the kernel gives huge pages
# Two workers of the demo model, after a request: 180 MiB each beside weights, KV cache and arena, buffers included.
PROCESS_BYTES = 220 * MEBIBYTE
THREAD_BYTES = 5 * MEBIBYTE  # a piece of the file that it reads and packs (READ_BYTES of the loader), and its stack
SERVICE_BYTES = 400 * MEBIBYTE  # 246 of a small model's: the coordinator, and of Ray four processes


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """Bytes that one worker takes of its node."""

    weights: int
    kv_cache: int
    working: int  # its part of the arena, the step's buffers, the table of rotations
    process: int  # interpreter, libraries, compiled kernels, threads

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.kv_cache + self.working + self.process


def worker_memory(
    plan: ShardPlan, spec: ModelSpec, limits: StepLimits, kv_types: KvTypes = HALF_FLOATS
) -> tuple[WorkerMemory, ...]:  # [workers]
    """Count what each worker of a plan takes; the arena's step slot counts with the first worker."""
    layout = layout_of(spec, plan, limits)
    starts = (0, *(stop for _, stop in layout.parts))
    return tuple(
        _one(plan, spec, shard, limits, kv_types, arena=layout.parts[shard.worker][1] - starts[shard.worker])
        for shard in plan.shards
    )


def node_bytes(
    plan: ShardPlan,
    spec: ModelSpec,
    limits: StepLimits,
    kv_types: KvTypes = HALF_FLOATS,
    *,
    room: Mapping[int, int] | None = None,
) -> dict[int, int]:
    """Bytes that the plan's workers take of each node they use, by node id.

    Of a worker on several nodes each has an equal part; but where pages go in turn to no node in particular, a node
    that has no more than `room` leaves the rest to the others.
    """
    totals: dict[int, int] = {}
    for shard, memory in zip(plan.shards, worker_memory(plan, spec, limits, kv_types), strict=True):
        strict = shard.spread is None or shard.spread.memory == "interleave"
        for node, size in spread_bytes(memory.total, shard.memory_nodes, {} if strict else room or {}).items():
            totals[node] = totals.get(node, 0) + size
    return dict(sorted(totals.items()))


def spread_bytes(size: int, nodes: Sequence[int], room: Mapping[int, int] = MappingProxyType({})) -> dict[int, int]:
    """Equal parts of `size` by node, or what a node has room for where that is less and others have more."""
    parts, left = dict.fromkeys(nodes, 0), size
    for number, node in enumerate(sorted(nodes, key=lambda node: room.get(node, size))):
        parts[node] = -(-left // (len(nodes) - number))
        if number < len(nodes) - 1:
            parts[node] = min(parts[node], room.get(node, size))
        left -= parts[node]
    return parts


def _one(
    plan: ShardPlan, spec: ModelSpec, shard: Shard, limits: StepLimits, kv_types: KvTypes, *, arena: int
) -> WorkerMemory:
    held = shard_bytes(plan, spec, shard, limits.kv_blocks * limits.block_positions, kv_types)
    buffers = touched_buffers(spec, plan, buffer_bytes(spec, shard, len(plan.shards), limits))
    rotations = 4 * limits.context_tokens * spec.rope.dimensions
    return WorkerMemory(
        weights=held.weights,
        kv_cache=held.kv_cache,
        working=arena + sum(buffers.values()) + rotations + HUGE_PAGES_BYTES,
        process=PROCESS_BYTES + THREAD_BYTES * len(shard.cpus),
    )
