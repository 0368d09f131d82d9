"""Profiles of a group's steps: what threads noted between two looks at the arena.

A look is taken between two steps. Threads count a step once they have noted all of it, and the next one needs all of
them; so a look waits, some microseconds, until all have counted alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.machine import processor_counters as counters
from numoe.model.machine.processor_counters import ThreadCounters, no_traffic_remark, read_traffic
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_size import kv_position_bytes
from numoe.protos.profile import (
    EVENT_WORDS,
    INSIDE,
    NOTED,
    NOTHING,
    STEPS,
    THREAD_ID,
    Profile,
    Traffic,
    WorkerProfile,
)

COUNT_SECONDS = 1.0  # for threads to count a step that is done, where other programs hold their cores
_LOOK_SECONDS = 50e-6
_COUNTS = ("steps", "tokens", "step_ns")


class RunningProfile(Protocol):
    """One that is being taken."""

    @property
    def steps(self) -> int:
        """How many steps were published since it was begun."""

    def close(self) -> None:
        """Note no more; soon, harmless when repeated, and by any thread."""


class Channel(Protocol):
    """The arena, as profiles need it: the workers' StepChannel."""

    profile_level: int
    noted_positions: int

    @property
    def published(self) -> int: ...

    def counters(self, worker: int) -> np.void: ...

    def part(self, worker: int, name: str) -> NDArray[np.int64]: ...


@dataclass(frozen=True, slots=True)
class _WorkerLook:
    """What a worker has noted so far."""

    state: NDArray[np.int64]  # [threads, STATE_WORDS]
    cells: NDArray[np.int64]  # [threads, layers + 1, PHASES, 3]
    weight_bytes: NDArray[np.int64]  # [PHASES] of every step, and [PHASES] beyond, so far
    counts: Mapping[str, int]
    processor: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Look:
    positions: int
    traffic: Mapping[str, tuple[int, int]]
    workers: tuple[_WorkerLook, ...]


class Profiling:
    """One profile that is being taken, of the steps of one arena; begun and ended between two steps."""

    def __init__(self, channel: Channel, spec: ModelSpec, plan: ShardPlan, kv_types: KvTypes) -> None:
        self.channel = channel
        self._spec, self._plan, self._kv_types = spec, plan, kv_types
        threads = [self.channel.part(shard.worker, "profile_state")[:, THREAD_ID].tolist() for shard in plan.shards]
        self._counters = [ThreadCounters(one) for one in threads]
        self._before: _Look | None = None
        self._published, self._began = channel.published, 0.0

    def begin(self, level: int) -> None:
        """Have threads note of the steps to come what the level says, see protos/profile.py."""
        self._before, self._published = self._look(), self.channel.published
        self._began = time.monotonic()
        self.channel.profile_level = level

    def end(self, peak: Callable[[int], float], peak_source: str) -> Profile:
        """Have them note no more, and return what they noted. `peak`: bytes per second of a NUMA node."""
        self.channel.profile_level = NOTHING
        seconds = time.monotonic() - self._began
        before, after = self._before, self._look()
        assert before is not None, "a profile is begun before it is ended"
        nodes = [node for shard in self._plan.shards for node in shard.memory_nodes]
        workers = []
        for shard, then, now in zip(self._plan.shards, before.workers, after.workers, strict=True):
            positions = kv_position_bytes(self._spec, shard.kv_heads.size, self._kv_types)
            share = sum(peak(node) / nodes.count(node) for node in shard.memory_nodes)
            events = self._events(shard.worker)
            kv_bytes = (after.positions - before.positions) * float(positions)
            workers.append(_worker_profile(shard.worker, shard.node, then, now, kv_bytes, share, events))
        first, then = after.workers[0], before.workers[0]
        remarks = (*dict.fromkeys(one.remark for one in self._counters), no_traffic_remark())
        return Profile(
            layers=self._spec.layers,
            steps=int(first.state[0, STEPS] - then.state[0, STEPS]),
            tokens=first.counts["tokens"] - then.counts["tokens"],
            seconds=seconds,
            peak_source=peak_source,
            workers=tuple(workers),
            traffic=_traffic(before.traffic, after.traffic),
            remarks=tuple(remark for remark in remarks if remark),
        )

    @property
    def steps(self) -> int:
        """How many steps were published since it was begun."""
        return self.channel.published - self._published

    def close(self) -> None:
        """Note and count no more; harmless when repeated, and by any thread."""
        self.channel.profile_level = NOTHING
        for one in self._counters:
            one.close()

    def _look(self) -> _Look:
        self._wait_for_threads()
        workers = tuple(
            _WorkerLook(
                state=self.channel.part(shard.worker, "profile_state").copy(),
                cells=self.channel.part(shard.worker, "profile_cells").copy(),
                weight_bytes=np.stack(
                    [self.channel.part(shard.worker, "step_bytes"), self.channel.part(shard.worker, "chosen_bytes")]
                ),
                counts={name: int(self.channel.counters(shard.worker)[name]) for name in _COUNTS},
                processor=self._counters[shard.worker].read(),
            )
            for shard in self._plan.shards
        )
        return _Look(self.channel.noted_positions, read_traffic(), workers)

    def _wait_for_threads(self) -> None:
        """Wait until every thread has counted as many noted steps as any other, and every worker as many steps."""
        end = time.monotonic() + COUNT_SECONDS
        while time.monotonic() < end:
            states = [self.channel.part(shard.worker, "profile_state") for shard in self._plan.shards]
            noted = {int(count) for state in states for count in state[:, STEPS]}
            steps = {int(self.channel.counters(shard.worker)["steps"]) for shard in self._plan.shards}
            if len(noted) == len(steps) == 1 and steps == {self.channel.published}:
                return
            time.sleep(_LOOK_SECONDS)

    def _events(self, worker: int) -> NDArray[np.int64]:  # [events, 6]
        state, events = self.channel.part(worker, "profile_state"), self.channel.part(worker, "profile_events")
        found = [np.insert(events[thread, : state[thread, NOTED]], 0, thread, axis=1) for thread in range(len(state))]
        return np.concatenate([*found, np.empty((0, EVENT_WORDS + 1), np.int64)])


def _traffic(then: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> tuple[Traffic, ...]:
    """What each cache's cores moved meanwhile."""
    found = []
    for domain in sorted(then.keys() & now.keys()):
        local, total = (now[domain][index] - then[domain][index] for index in range(2))
        found.append(Traffic(domain, local, max(0, total - local)))
    return tuple(found)


def _worker_profile(
    worker: int,
    node: int,
    then: _WorkerLook,
    now: _WorkerLook,
    kv_bytes: float,
    peak: float,
    events: NDArray[np.int64],
) -> WorkerProfile:
    state = now.state - then.state
    steps = int(state[0, STEPS])
    counted = {name: now.processor[name] - then.processor.get(name, 0) for name in now.processor}
    loads, remote = counted.get(counters.LOADS), counted.get(counters.REMOTE_LOADS)
    return WorkerProfile(
        worker=worker,
        node=node,
        cells=now.cells - then.cells,
        inside=state[:, INSIDE].copy(),
        step_ns=now.counts["step_ns"] - then.counts["step_ns"],
        weight_bytes=now.weight_bytes[0] * steps + now.weight_bytes[1] - then.weight_bytes[1],
        kv_bytes=kv_bytes,
        peak=peak,
        events=events,
        instructions=counted.get(counters.INSTRUCTIONS),
        cycles=counted.get(counters.CYCLES),
        local_loads=None if loads is None or remote is None else max(0, loads - remote),
        remote_loads=remote if loads is not None else None,
    )
