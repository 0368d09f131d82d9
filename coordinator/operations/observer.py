"""Takes snapshots of a loaded service, and keeps the samples that its rates are made of."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.counts import Histogram
from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.operations.configuration import Setting
from numoe.coordinator.operations.expert_map import ExpertPlaces
from numoe.coordinator.operations.history import (
    LATELY_SECONDS,
    RECENT_SECONDS,
    Sample,
    SampleRing,
    Times,
    hits_change,
)
from numoe.coordinator.operations.parts import findings_now, flow_now, requests_now, workers_now
from numoe.coordinator.operations.snapshot import Choices, Progress, Service, Snapshot
from numoe.coordinator.workers.placement import Placement, WorkerPlacement, Workers
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.plan_size import whole_expert_bytes
from numoe.protos.arena import COUNTERS
from numoe.protos.errors import ServiceError

SHOWN_EVENTS = 50
_COUNTED = COUNTERS.names or ()


class Observer:
    """Looks at one service; used by one thread."""

    def __init__(
        self,
        spec: ModelSpec,
        workers: Workers,
        engine: Engine,
        service: Service,
        configuration: tuple[Setting, ...],
    ) -> None:
        self._spec, self._workers, self._engine = spec, workers, engine
        self._service, self._configuration = service, configuration
        sizes = [whole_expert_bytes(tensors) for tensors in spec.layer_tensors]
        self._places = ExpertPlaces(workers.placement(), spec.experts, sizes, time.time())
        self._ring = SampleRing()
        self._counting_since = time.monotonic()  # of the workers that run now
        self._hits: NDArray[np.int64] | None = None  # of the newest sample
        self._made: dict[str, Choices] = {}
        self._lately: tuple[Sample, Choices, Choices] | None = None
        self._pids: dict[int, int | None] = {}  # of the workers, as of the last snapshot
        self.sample()

    def sample(self) -> None:
        """Remember what is counted now."""
        self._places.follow(self._workers.placement(), time.time())
        sample = self._look()
        if self._hits is not None and (sample.hits < self._hits).any():  # the workers were restarted
            self._counting_since = sample.at
        self._hits, self._lately = sample.hits, None
        self._ring.add(sample)

    def take(self, own: MachineFacts, moving: Progress | None) -> Snapshot:
        """The service now; `own`: what this host's machine is, `moving`: how far moves of experts are."""
        unix, found = time.time(), self._workers.placement()
        self._places.follow(found, unix)
        now = self._look()
        recently = self._ring.before(RECENT_SECONDS, now.at)
        placement, requests = self._told(found), self._engine.requests()
        machines = self._workers.machines(own)
        lately, ever = self._slow_choices()
        return Snapshot(
            now=round(unix, 1),
            service=self._service_now(now, placement, moving),
            hosts=tuple(facts.host for facts in machines),
            workers=workers_now(placement, now, recently, machines),
            experts=self._places.map,
            recent=self._choices("recent", hits_change(now, recently), now.at - recently.at),
            lately=lately,
            ever=ever,
            flow=flow_now(now, recently, self._engine.counts.ended, requests),
            history=self._ring.history(lambda at: unix + at - now.at),
            requests=requests_now(requests, now.at),
            events=self._engine.events.after()[-SHOWN_EVENTS:],
            configuration=self._configuration,
            findings=findings_now(machines),
        )

    def _told(self, placement: Placement) -> Placement:
        """The workers as they are, but those of which the last process is gone lost in one snapshot at least."""
        before, self._pids = self._pids, {worker.shard.worker: worker.pid for worker in placement.workers}
        workers = tuple(
            _lost(worker) if before.get(worker.shard.worker) not in (None, worker.pid) else worker
            for worker in placement.workers
        )
        return replace(placement, workers=workers)

    def _slow_choices(self) -> tuple[Choices, Choices]:
        """Those of 5 min and of all time as of the newest sample: they are large, and change little in a second."""
        newest = self._ring.newest
        if self._lately is None or self._lately[0] is not newest:
            before = self._ring.before(LATELY_SECONDS, newest.at)
            lately = self._choices("lately", hits_change(newest, before), newest.at - before.at)
            ever = self._choices("ever", newest.hits, newest.at - self._counting_since)
            self._lately = newest, lately, ever
        return self._lately[1:]

    def _choices(self, name: str, hits: NDArray[np.int64], seconds: float) -> Choices:
        """The same as the last time where only time went by: they need not be sent again to who has them."""
        made, last = self._places.choices(hits, seconds), self._made.get(name)
        if last is not None and replace(made, seconds=last.seconds) == last:
            return last
        self._made[name] = made
        return made

    def _service_now(self, now: Sample, placement: Placement, moving: Progress | None) -> Service:
        return replace(
            self._service,
            state=now.engine.state.value,
            model=self._spec.name,
            layers=self._spec.layers,
            experts=self._spec.experts,
            active_experts=self._spec.active_experts,
            context_tokens=self._engine.limits.context_tokens,
            split=placement.split,
            binding=placement.binding,
            restarts=now.engine.restarts,
            rebalance=moving,
        )

    def _look(self) -> Sample:
        workers = tuple({name: int(counted[name]) for name in _COUNTED} for counted in self._workers.counters())
        try:
            hits = self._workers.expert_hits()
        except ServiceError:  # the workers are being restarted
            hits = np.zeros((self._spec.layers, self._spec.experts), np.int64)
        return Sample(
            at=time.monotonic(),
            engine=self._engine.snapshot(),
            first_token=_times(self._engine.counts.first_token_seconds),
            between_tokens=_times(self._engine.counts.between_tokens_seconds),
            workers=workers,
            hits=hits,
        )


def _lost(worker: WorkerPlacement) -> WorkerPlacement:
    return WorkerPlacement(worker.shard, "lost", host=worker.host, layers=worker.layers)


def _times(histogram: Histogram) -> Times:
    seen = histogram.look()
    return Times(seen.count, seen.sum)
