"""The workers of a plan inside this process: threads, weights and an arena, as in `numoe serve`, but without Ray."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.workers.step_channel import StepChannel
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS
from numoe.model.machine.memory_policy import DEFAULT_POLICY, MemoryPolicy
from numoe.model.planning.assignment import WorkerAssignment, arena_policy, layout_of
from numoe.model.planning.plan import ShardPlan
from numoe.protos.errors import WorkerLost
from numoe.protos.messages import Step, StepLimits, StepResult
from numoe.protos.profile import FOR_THREADS, FOR_WORKERS, NOTHING, TIMES, WORK
from numoe.worker.loading.arrange import arrange
from numoe.worker.loading.loader import LoadedWeights, load_weights
from numoe.worker.loading.weight_memory import PrivateMemory, held_apart
from numoe.worker.placing.memory import allocate, map_arena
from numoe.worker.running.step_records import kv_bytes
from numoe.worker.running.team import ThreadTeam

SPINS = 20_000  # looks at a word before a thread sleeps: every thread has a core of its own
TIMEOUT_SECONDS = 60.0


def policies_of(plan: ShardPlan) -> list[MemoryPolicy]:
    """Where the memory of each worker is to lie: on its node, of several; one node takes what the kernel lets it."""
    several = len({shard.node for shard in plan.shards}) > 1
    return [arena_policy(shard) if several else DEFAULT_POLICY for shard in plan.shards]


def load(spec: ModelSpec, plan: ShardPlan) -> list[LoadedWeights]:
    """Read and pack the weights of each worker, on its node."""
    loaded = []
    for shard, policy in zip(plan.shards, policies_of(plan), strict=True):
        arranged = arrange(spec, plan, shard, held_apart(plan, shard.worker))
        place = PrivateMemory(plan, shard.worker, partial(allocate, policy=policy))
        loaded.append(load_weights(spec, shard, arranged, len(shard.cpus), lambda size: None, place))
    return loaded


class LocalWorkers:
    """Runs steps as HostGroup does; who made it calls `close`. Weights serve all plans that divide them alike."""

    def __init__(self, spec: ModelSpec, plan: ShardPlan, limits: StepLimits, weights: Sequence[LoadedWeights]) -> None:
        self.limits, self._plan = limits, plan
        layout = layout_of(spec, plan, limits)
        policies = policies_of(plan)
        self._channel = StepChannel(layout, plan.experts, policies)
        arena = map_arena(self._channel.descriptor, layout.bytes)
        self._teams: list[ThreadTeam] = []
        self._memory: list[NDArray[np.uint8]] = []  # kept while threads use it
        first = WorkerAssignment(
            0, spec, plan, limits, HALF_FLOATS, os.getpid(), self._channel.descriptor, SPINS, TIMEOUT_SECONDS
        )
        for shard, policy, loaded in zip(plan.shards, policies, weights, strict=True):
            assignment = replace(first, worker=shard.worker)
            kv = allocate(kv_bytes(assignment), policy)
            kv.fill(0)
            self._memory.append(kv)
            self._teams.append(ThreadTeam(assignment, layout, arena, loaded, kv, self._fail))
        for team in self._teams:
            team.start()

    def submit(self, step: Step) -> None:
        """Hand a step to all workers."""
        self._channel.publish(step)

    def collect(self, timeout_seconds: float) -> StepResult:
        """What the step drew. Raises WorkerLost: it took too long."""
        result = self._channel.wait(timeout_seconds)
        if result is None:
            raise WorkerLost(f"a step took more than {timeout_seconds:.0f} s")
        return result

    def counters(self) -> list[np.void]:
        """What each worker has counted."""
        return [self._channel.counters(shard.worker) for shard in self._plan.shards]

    def note_times(self, *, on: bool) -> None:
        """Have threads note where the time of the steps to come goes."""
        self._channel.profile_level = TIMES if on else NOTHING

    def waited(self) -> tuple[int, int]:
        """Nanoseconds of all threads that were noted so far: waiting for each other and for workers, and in all."""
        parts = [self._channel.part(shard.worker, "profile_cells") for shard in self._plan.shards]
        cells = sum(part.sum(axis=(0, 1, 2)) for part in parts)
        waiting = int(cells[FOR_THREADS] + cells[FOR_WORKERS])
        return waiting, waiting + int(cells[WORK])

    def close(self) -> None:
        """End the threads, and give the arena back."""
        for team in self._teams:
            team.abort()
        for team in self._teams:
            team.join(TIMEOUT_SECONDS)
        self._channel.close()

    def _fail(self, error: BaseException) -> None:
        self._channel.abort()
        raise error
