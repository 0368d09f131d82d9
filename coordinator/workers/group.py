"""One host's group of workers: loads them, hands steps to them, watches them, moves experts between them.

Steps go through the arena. A worker's death shows on its pidfd at once, so a step in flight ends within WATCH_SECONDS
of it. A group that lost a worker is never mended: `restart` ends the rest and starts a new group with a new arena.

*Guarantees*: `close` may be called by any thread at any time. Whoever waits for workers or starts them then ends soon,
by WorkerLost, and nothing is closed twice.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock, RLock
from typing import Any

from numoe.coordinator.workers.ray_node import remove_session  # sets what Ray reads when it is imported

# isort: split
import numpy as np
import ray
import structlog
from numpy.typing import NDArray

from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import KV_TYPES, ServeSettings, step_limits
from numoe.coordinator.workers.actors import ActorGroup
from numoe.coordinator.workers.expert_mover import ExpertMover
from numoe.coordinator.workers.expert_tally import ExpertTally
from numoe.coordinator.workers.placement import Placement, WorkerPlacement, WorkerState
from numoe.coordinator.workers.step_boundary import StepBoundary
from numoe.coordinator.workers.step_channel import StepChannel
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.assignment import WorkerAssignment, layout_of
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.protos.arena import LOADING, READY
from numoe.protos.errors import ServiceError, Unavailable, WorkerLost
from numoe.protos.locality import VERIFIED
from numoe.protos.messages import Step, StepLimits, StepResult

WATCH_SECONDS = 0.05  # how often a waiting coordinator looks at its workers
CLOSE_SECONDS = 5.0  # for a start in another thread to end; only where a call of Ray's hangs it takes as long
SPINS = 20_000  # some 0.3 ms: waits inside a step are shorter when nobody disturbs
SPINS_CROWDED = 100  # several threads share a core: spinning would keep the one that is waited for from running

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Started:
    """What there is of the workers between a start and the next end; replaced whole, so that no thread sees a part."""

    channel: StepChannel
    actors: ActorGroup
    reports: tuple[Any, ...] = ()  # a ShardReport of each worker; empty until all have loaded


class HostGroup:
    """Implements Workers (placement.py): the executor of the engine's steps."""

    def __init__(self, spec: ModelSpec, plan: ShardPlan, settings: ServeSettings, session: Path | None) -> None:
        """`session`: the folder of the Ray node that was started for this group; None: there was a node before."""
        self._spec, self._plan, self._settings, self._session = spec, plan, settings, session
        self._keep_logs = False  # of Ray's session: something went wrong that they may explain
        self._limits = step_limits(settings.engine, spec.context_length)
        self._tally = ExpertTally(spec, settings.workers.expert_stats)
        self._boundary = StepBoundary()
        self._moving = Lock()
        self._changing = RLock()  # held while workers start or end
        self._closing = Event()
        self._closed = False
        self._started: _Started | None = None

    @property
    def limits(self) -> StepLimits:
        return self._limits

    # ---- from start to end

    def start(self, progress: LoadProgress) -> None:
        """Start and load new workers; nothing of old ones may be left.

        Raises:
            SetupError: a worker cannot become what the plan says.
            ServiceError: they did not start in time; WorkerLost: one died, or `close` was called.
        """
        with self._changing:
            self._start(progress)

    def _start(self, progress: LoadProgress) -> None:
        kept, self._keep_logs = self._keep_logs, True
        seconds = self._settings.workers.start_timeout_seconds
        end = time.monotonic() + seconds
        nodes = tuple(shard.node for shard in self._plan.shards)
        channel = StepChannel(layout_of(self._spec, self._plan, self._limits), self._plan.experts, nodes)
        actors = self._new_actors()
        self._started = _Started(channel, actors)

        def look(phase: str) -> None:
            if self._closing.is_set():
                raise _ended()
            counters = self.counters() if phase == "loading" else []
            done, total = (sum(int(one[name]) for one in counters) for name in ("loaded_bytes", "total_bytes"))
            progress(phase, done, total)
            if time.monotonic() > end:
                raise ServiceError(f"{phase} the workers took more than {seconds:.0f} s")

        actors.start(lambda: look("starting"))
        assignments = [self._assignment(shard.worker, channel.descriptor) for shard in self._plan.shards]
        reports = actors.load(assignments, lambda: look("loading"))
        self._started = replace(self._started, reports=tuple(reports))
        for shard, report in zip(self._plan.shards, reports, strict=True):
            _log_binding(shard, report.locality)
        self._keep_logs = kept

    def _new_actors(self) -> ActorGroup:
        return ActorGroup(self._plan)

    def _assignment(self, worker: int, arena: int) -> WorkerAssignment:
        return WorkerAssignment(
            worker=worker,
            spec=self._spec,
            plan=self._plan,
            limits=self._limits,
            kv_type=KV_TYPES[self._settings.engine.kv_type],
            coordinator=os.getpid(),
            arena=arena,
            spins=SPINS_CROWDED if _crowded(self._plan) else SPINS,
            step_timeout_seconds=self._settings.workers.step_timeout_seconds,
            allow_remote_memory=self._settings.workers.allow_remote_memory,
        )

    def restart(self) -> None:
        with self._changing:
            if self._started is not None:
                self._started.actors.give_back()
            self._end()
            self._start(lambda phase, done, total: None)
            _log.info("workers_restarted", pids=self._sound().actors.pids)

    def close(self) -> None:
        self._closing.set()
        started = self._started
        if started is not None:
            started.channel.abort()
        if not self._changing.acquire(timeout=CLOSE_SECONDS):
            _log.error("ray_does_not_answer", seconds=CLOSE_SECONDS)
            if started is not None:
                started.actors.end()
            return  # to what ends this process; all others end with it
        try:
            self._close()
        finally:
            self._changing.release()

    def _close(self) -> None:
        """As `close`, once no other thread starts or ends workers."""
        if self._closed:
            return
        self._closed = True
        if self._session is not None:
            ray.shutdown()  # first, lest it tells of every worker that ends
        elif self._started is not None:
            self._started.actors.give_back()
        self._end()
        self._tally.close()
        if self._session is not None and not self._keep_logs:
            remove_session(self._session)

    def _end(self) -> None:
        """End every worker and wait until it is gone, and its memory with it."""
        started = self._started
        if started is not None:
            self._tally.end_group(started.channel.expert_hits() if started.channel.idle else None)
            started.channel.abort()
            started.actors.end()
        with self._moving:  # a move that was under way has failed by now, and must not be taken for the next group's
            if started is not None:
                started.channel.close()
            self._started = None

    # ---- steps, by the engine's thread

    def submit(self, step: Step) -> None:
        channel = self._sound().channel
        self._boundary.begin()
        channel.publish(step)

    def collect(self, timeout_seconds: float) -> StepResult:
        try:
            return self._result(timeout_seconds)
        finally:
            self._boundary.end()

    def _result(self, timeout_seconds: float) -> StepResult:
        started = self._started
        if started is None:
            raise _ended()
        channel, end = started.channel, time.monotonic() + timeout_seconds
        while True:
            result = channel.wait(WATCH_SECONDS)
            if result is not None:
                self._tally.after_step(channel.expert_hits)
                return result
            self.check()
            if time.monotonic() > end:
                self._keep_logs = True
                raise WorkerLost(f"a step took more than {timeout_seconds:.1f} s: the workers do not answer")

    def logits(self) -> NDArray[np.float32]:  # [R, V]
        """What the step collected last drew from; for measuring, not for serving."""
        assert self._started is not None
        return self._started.channel.logits()[:, : self._spec.vocabulary]

    def check(self) -> None:
        self._sound()

    def _sound(self) -> _Started:
        """The workers, if all of them live; raises WorkerLost."""
        if self._closing.is_set():
            raise _ended()
        started = self._started
        ended = [] if started is None else started.actors.ended()
        if started is None or ended or not started.actors.pids:
            self._keep_logs = True
            lost = ", ".join(map(str, ended)) or "of this group"
            raise WorkerLost(f"worker {lost} died; its requests can be sent again")
        return started

    # ---- where everything lies, by any thread

    def counters(self) -> list[np.void]:
        """What each worker has counted, see COUNTERS in protos/arena.py; none while there are no workers."""
        started = self._started
        return [] if started is None else [started.channel.counters(shard.worker) for shard in self._plan.shards]

    def experts(self) -> tuple[ExpertOwners | None, ...]:
        return self._plan.experts

    def expert_hits(self) -> NDArray[np.int64]:  # [L, E]
        started = self._started
        if started is None:
            raise _restarting()
        return started.channel.expert_hits()

    def move_expert(self, move: ExpertMove) -> None:
        with self._moving:
            started, owners = self._started, self._plan.experts[move.layer]
            if started is None or not started.reports:  # workers that load have their assignments already
                raise _restarting()
            assert owners is not None, move

            def moved(after: ExpertOwners) -> None:
                experts = list(self._plan.experts)
                experts[move.layer] = after
                self._plan = replace(self._plan, experts=tuple(experts))  # what a restart will load

            timeout = self._settings.workers.step_timeout_seconds
            mover = ExpertMover(started.channel, started.actors.handles, self._boundary, timeout)
            changed = mover.move(move, owners, moved)
            reports = tuple(changed.get(worker, report) for worker, report in enumerate(started.reports))
            self._started = replace(started, reports=reports)

    def placement(self) -> Placement:
        started, plan = self._started, self._plan
        workers = tuple(_placed(shard, started) for shard in plan.shards)
        return Placement(split=plan.split, workers=workers, experts=plan.experts)


def _placed(shard: Shard, started: _Started | None) -> WorkerPlacement:
    if started is None:
        return WorkerPlacement(shard, "lost")
    number, state = shard.worker, started.channel.state(shard.worker)
    states: dict[int, WorkerState] = {LOADING: "loading", READY: "ready"}
    report = started.reports[number] if started.reports else None
    return WorkerPlacement(
        shard=shard,
        state=states.get(state, "starting"),
        pid=started.actors.pids[number] if started.actors.pids else None,
        weight_bytes=report.weight_bytes if report else None,
        kv_bytes=report.kv_bytes if report else None,
        locality=report.locality if report else None,
    )


def _ended() -> WorkerLost:
    return WorkerLost("the workers were ended, as the service ends")


def _restarting() -> Unavailable:
    return Unavailable("the workers are being restarted; try again in a few seconds")


def _crowded(plan: ShardPlan) -> bool:
    """Whether two computing threads share a CPU."""
    cpus = [cpu for shard in plan.shards for cpu in shard.cpus]
    return len(set(cpus)) < len(cpus)


def _log_binding(shard: Shard, found: Any) -> None:
    """Log how sure it is that a worker's memory and threads are where they should be; loud where it is not."""
    facts = {"worker": shard.worker, "node": shard.node, "binding": found.level}
    if found.moved_bytes:
        facts["moved_bytes"] = found.moved_bytes
    if found.level.endswith(VERIFIED):
        _log.info("worker_bound", **facts)
    else:
        why = found.problem or "the kernel does not tell where pages are, or was not asked to bind them"
        _log.warning("worker_binding_unsure", **facts, why=why)
