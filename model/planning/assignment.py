"""What a worker is assigned to hold and to do, and the arena that follows from the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.memory_policy import DEFAULT_POLICY, MemoryPolicy
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.protos.arena import ArenaLayout, ArenaShape, PartShape, arena_layout
from numoe.protos.locality import ANY_MEMORY
from numoe.protos.messages import StepLimits

TRANSFER_BYTES = 32 << 20  # an expert of Qwen3-235B-A22B at Q8_0 is 20 MB


@dataclass(frozen=True, slots=True)
class WorkerAssignment:
    """One worker's task; it differs between the workers of a group in `worker` only."""

    worker: int
    spec: ModelSpec
    plan: ShardPlan
    limits: StepLimits
    kv_types: KvTypes  # of keys and values in memory
    coordinator: int  # process id; its memfd is the arena, and a worker ends with it
    arena: int  # file descriptor of the memfd in the coordinator
    spins: int  # looks at a word before a waiting thread sleeps
    step_timeout_seconds: float
    allow_remote_memory: bool = False  # load although something is not on the shard's node or CPUs
    hadamard: bool = False  # spread queries and keys over all dimensions of a head
    lock_weights: bool = False  # in memory, so that they are never swapped out
    packed: Path | None = None  # a folder of panels to load instead of the model's file
    keeper: Path | None = None  # the socket of who keeps the weights beyond this worker; None: they end with it
    kv_store: Path | None = None  # a folder that keeps keys and values beyond this worker; None: they end with it
    saves_blocks: bool = False  # whether keys and values are put into files at all, there or elsewhere
    verify_seconds: float | None = None  # for a walk that compares weights with digests of them; None: there is none

    @property
    def shard(self) -> Shard:
        """The part of the model that this worker holds."""
        return self.plan.shards[self.worker]


def binding_of(shard: Shard) -> tuple[str, str]:
    """The memory and the CPUs that a worker's process is bound to, as worker/placing/binding.py reads them."""
    nodes, cpus = format_id_list(shard.memory_nodes), format_id_list(shard.allowed_cpus)
    if shard.spread is None or shard.spread.memory == "bind":
        return nodes, cpus
    return (f"interleave:{nodes}" if shard.spread.memory == "interleave" else ANY_MEMORY), cpus


def arena_policy(shard: Shard) -> MemoryPolicy:
    """How the part of the arena that a worker writes is to lie."""
    memory = "bind" if shard.spread is None else shard.spread.memory
    return DEFAULT_POLICY if memory == "any" else MemoryPolicy(memory, shard.memory_nodes)


def layout_of(spec: ModelSpec, plan: ShardPlan, limits: StepLimits) -> ArenaLayout:
    """The layout of the arena of a model that is split by `plan`."""
    whole = plan.split != "tensor"
    parts = tuple(
        PartShape(
            width=shard.width_rows.size,
            attention_width=shard.heads.size * spec.head_size,
            expert_width=spec.expert_width if whole else shard.expert_rows.size,
            output_width=spec.width if whole else 0,
            vocabulary=shard.vocabulary.size if spec.draws else 0,
            threads=len(shard.cpus),
        )
        for shard in plan.shards
    )
    transfer = TRANSFER_BYTES if whole else 0
    sizes = spec.layers, spec.width, spec.experts, spec.active_experts
    return arena_layout(ArenaShape(limits, *sizes, parts, transfer, embeds=spec.embeds))
