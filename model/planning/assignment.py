"""What a worker is assigned to hold and to do, and the arena that follows from the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.kv_types import KvTypes
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.protos.arena import ArenaLayout, ArenaShape, PartShape, arena_layout
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
    packed: Path | None = None  # a folder of panels to load instead of the model's file

    @property
    def shard(self) -> Shard:
        """The part of the model that this worker holds."""
        return self.plan.shards[self.worker]


def layout_of(spec: ModelSpec, plan: ShardPlan, limits: StepLimits) -> ArenaLayout:
    """The layout of the arena of a model that is split by `plan`."""
    whole = plan.split != "tensor"
    parts = tuple(
        PartShape(
            width=shard.width_rows.size,
            attention_width=shard.heads.size * spec.head_size,
            expert_width=spec.expert_width if whole else shard.expert_rows.size,
            output_width=spec.width if whole else 0,
            vocabulary=shard.vocabulary.size,
        )
        for shard in plan.shards
    )
    transfer = TRANSFER_BYTES if whole else 0
    shape = ArenaShape(limits, spec.layers, spec.width, spec.experts, spec.active_experts, parts, transfer)
    return arena_layout(shape)
