"""What there is of a group's workers between a start and the next end: their arena, processes and reports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numoe.coordinator.settings import ServeSettings, kv_types
from numoe.coordinator.workers.actors import ActorGroup
from numoe.coordinator.workers.placement import Placement, WorkerPlacement, WorkerState
from numoe.coordinator.workers.step_channel import StepChannel
from numoe.coordinator.workers.watching.heartbeats import Heartbeats
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.assignment import WorkerAssignment, arena_policy, layout_of
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.protos.arena import FAILED, LOADING, READY, STARTING
from numoe.protos.errors import SetupError
from numoe.protos.messages import StepLimits

SPINS = 20_000  # some 0.3 ms: waits inside a step are shorter when nobody disturbs
SPINS_CROWDED = 100  # several threads share a core: spinning would keep the one that is waited for from running
_STATES: Mapping[int, WorkerState] = {STARTING: "starting", LOADING: "loading", READY: "ready", FAILED: "lost"}


@dataclass(frozen=True, slots=True)
class StartedWorkers:
    """Replaced whole, so that no thread sees a part."""

    channel: StepChannel
    actors: ActorGroup
    reports: tuple[Any, ...] = ()  # a ShardReport of each worker; empty until all have loaded
    ready_at: float | None = None  # Unix time when all had loaded
    after_loss: bool = False  # they come in place of lost ones
    heartbeats: Heartbeats | None = None  # None until all have loaded

    def lost(self) -> str:
        """Which of them died, or that all were ended, for people; empty: all live. Returns at once."""
        if self.actors.over:
            return "the workers were ended"
        return ", ".join(f"worker {worker} died{self.actors.why(worker)}" for worker in self.actors.ended())

    def counters(self, plan: ShardPlan) -> list[np.void]:
        """What each worker has counted, see COUNTERS in protos/arena.py."""
        return [self.channel.counters(shard.worker) for shard in plan.shards]

    def loaded(self, plan: ShardPlan) -> tuple[int, int]:
        """How many bytes are loaded, and of how many."""
        counters = self.counters(plan)
        return sum(int(one["loaded_bytes"]) for one in counters), sum(int(one["total_bytes"]) for one in counters)

    def placed(self, plan: ShardPlan) -> tuple[WorkerPlacement, ...]:
        """Every worker as it is now: one that died or failed is lost until a new process runs, whatever it said."""
        ended, pids = self.actors.ended(), self.actors.pids
        return tuple(self._placed(shard, shard.worker in ended, pids) for shard in plan.shards)

    def _placed(self, shard: Shard, ended: bool, pids: tuple[int, ...]) -> WorkerPlacement:
        report = self.reports[shard.worker] if self.reports else None
        lost = ended or self.actors.over or (self.after_loss and not pids)
        stuck = self.heartbeats is not None and shard.worker in self.heartbeats.stuck
        return WorkerPlacement(
            shard=shard,
            state="lost" if lost else "stuck" if stuck else _STATES[self.channel.state(shard.worker)],
            pid=pids[shard.worker] if pids and not lost else None,
            weight_bytes=report.weight_bytes if report else None,
            kv_bytes=report.kv_bytes if report else None,
            locality=report.locality if report else None,
        )


def placement_of(plan: ShardPlan, started: StartedWorkers | None) -> Placement:
    """Where everything lies now; None: there are no workers."""
    lost = (WorkerPlacement(shard, "lost") for shard in plan.shards)
    workers = tuple(lost) if started is None else started.placed(plan)
    ready_at = None if started is None else started.ready_at
    return Placement(plan.split, workers, plan.experts, ready_at)


def open_channel(spec: ModelSpec, plan: ShardPlan, limits: StepLimits) -> StepChannel:
    """A new arena for the workers of a plan. Raises SetupError: there is no memory for it."""
    try:
        return StepChannel(layout_of(spec, plan, limits), plan.experts, map(arena_policy, plan.shards))
    except MemoryError as error:
        hint = "smaller --step-tokens, --sequences and --context-tokens take less"
        raise SetupError(f"workers cannot share what steps need: {error}; {hint}") from error


def assignments_of(
    spec: ModelSpec,
    plan: ShardPlan,
    limits: StepLimits,
    settings: ServeSettings,
    arena: int,
    keeper: Path | None,
) -> list[WorkerAssignment]:
    """What each worker is told to become. `arena`: its descriptor, in this process; `keeper`: its socket."""
    return [
        WorkerAssignment(
            worker=shard.worker,
            spec=spec,
            plan=plan,
            limits=limits,
            kv_types=kv_types(settings.engine),
            coordinator=os.getpid(),
            arena=arena,
            spins=SPINS_CROWDED if _crowded(plan) else SPINS,
            step_timeout_seconds=settings.workers.step_timeout_seconds,
            allow_remote_memory=settings.workers.allow_remote_memory,
            hadamard=settings.engine.k_cache_hadamard,
            lock_weights=settings.workers.mlock,
            packed=settings.model.packed and settings.model.packed.absolute(),
            keeper=keeper,
            kv_store=settings.engine.kv_store and settings.engine.kv_store.absolute(),
            saves_blocks=bool(settings.engine.kv_store or settings.engine.slot_save_path),
            verify_seconds=settings.workers.verify_weights,
        )
        for shard in plan.shards
    ]


def _crowded(plan: ShardPlan) -> bool:
    """Whether two computing threads share a CPU."""
    cpus = [cpu for shard in plan.shards for cpu in shard.cpus]
    return len(set(cpus)) < len(cpus)


def tile_types(spec: ModelSpec, kv_types: KvTypes) -> list[str]:
    """What workers run tiles of, as worker/running/warm.py names it: the types of the matrices and of the KV cache."""
    values = ["values"] if kv_types.values == TensorType.Q8_0 else []
    return sorted(type_.name for type_ in spec.matrix_types | {*kv_types}) + values
