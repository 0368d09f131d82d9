"""One host's group of workers: loads them, hands steps to them, watches them, moves experts between them.

Steps go through the arena. A worker's death shows on its pidfd at once, so a step in flight ends within WATCH_SECONDS
of it, and so does the death of one of Ray's processes, without which no worker could be replaced. A group that lost
either is never mended: `restart` ends the rest and starts a new group with a new arena, on a new Ray where that died.

*Guarantees*: `close` may be called by any thread at any time. Whoever waits for workers or starts them then ends soon,
by WorkerLost, and nothing is closed twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Event, Lock, RLock
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from numoe.coordinator.cluster.ray_calls import call_apart
from numoe.coordinator.cluster.ray_node import RayNode
from numoe.coordinator.engine.restarts import FORGET_SECONDS
from numoe.coordinator.limits import step_limits
from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.profiling.taking import Profiling, RunningProfile
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ServeSettings, kv_types
from numoe.coordinator.workers.actors import ActorGroup
from numoe.coordinator.workers.expert_mover import ExpertMover
from numoe.coordinator.workers.expert_tally import ExpertTally
from numoe.coordinator.workers.keeping import Keeping
from numoe.coordinator.workers.kv_store import KvStore
from numoe.coordinator.workers.placement import Placement, log_binding
from numoe.coordinator.workers.slot_files import slot_files_of
from numoe.coordinator.workers.standby import Standby
from numoe.coordinator.workers.started import StartedWorkers, assignments_of, open_channel, placement_of, tile_types
from numoe.coordinator.workers.step_boundary import StepBoundary
from numoe.coordinator.workers.watching.heartbeats import Heartbeats
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.plan import ShardPlan
from numoe.protos.errors import PlanError, ServiceError, Unavailable, WorkerLost
from numoe.protos.messages import Step, StepResult
from numoe.protos.profile import Profile

WATCH_SECONDS = 0.05  # how often a waiting coordinator looks at its workers
CLOSE_SECONDS = 5.0  # for a start in another thread to end; only where a call of Ray's hangs it takes as long

_log = structlog.get_logger()


class HostGroup:
    """Implements Workers (placement.py): the executor of the engine's steps."""

    def __init__(
        self,
        spec: ModelSpec,
        plan: ShardPlan,
        settings: ServeSettings,
        node: RayNode | None,
        *,
        standby: bool = False,
        keeping: Keeping | None = None,
    ) -> None:
        """`node`: Ray, started for this group, which ends it; None: there was a Ray before, whose life is another's.

        With `standby`, for which Ray must have room, the processes of the next group are started beside those of this.
        With `keeping`, which this group ends, the next group finds the weights of this.
        """
        self._spec, self._plan, self._settings, self._node = spec, plan, settings, node
        self._keep_logs = False  # of Ray's session: something went wrong that they may explain
        self.limits = step_limits(settings.engine, spec.context_length)
        self._tally = ExpertTally(spec, settings.workers.expert_stats)
        self._boundary, self._moving = StepBoundary(), Lock()
        self._changing = RLock()  # held while workers start or end
        self._closing, self._closed = Event(), False
        self._started: StartedWorkers | None = None
        self._standby = Standby(self._new_actors, self._refuse_lost_ray) if standby else None
        self._store = None if settings.engine.kv_store is None else KvStore(settings.engine, self._ask_workers)
        self.slot_files = slot_files_of(settings.engine, self.limits.block_positions, self._ask_workers)
        self._keeping, self._computed = keeping, True  # whether the workers have computed a step
        self._losses = 0  # how often all workers were given up as one was lost

    # ---- from start to end

    def start(self, progress: LoadProgress) -> None:
        """Start and load new workers; nothing of old ones may be left.

        Raises SetupError: a worker cannot become what the plan says; ServiceError: they did not start in time;
        WorkerLost: one died, or Ray did, or `close` was called.
        """
        with self._changing:
            self._start(progress)

    def _start(self, progress: LoadProgress) -> None:
        kept, self._keep_logs = self._keep_logs, True
        seconds = self._settings.workers.start_timeout_seconds
        end = time.monotonic() + seconds
        if self._keeping:
            self._keeping.start(self._plan)
        channel = open_channel(self._spec, self._plan, self.limits)
        waiting = self._standby.take(lambda: self._look_at_standby(progress)) if self._standby else None
        actors = waiting or self._new_actors()
        self._started = started = StartedWorkers(channel, actors, after_loss=self._losses > 0)

        def look(phase: str) -> None:
            self._refuse_lost(started)
            progress(phase, *(started.loaded(self._plan) if phase == "loading" else (0, 0)))
            if time.monotonic() > end:
                raise ServiceError(f"{phase} the workers took more than {seconds:.0f} s")

        if waiting is None:
            actors.start(lambda: look("starting"))
        keeper = self._keeping.socket if self._keeping else None
        assignments = assignments_of(self._spec, self._plan, self.limits, self._settings, channel.descriptor, keeper)
        reports = actors.load(assignments, lambda: look("loading"))
        states = [channel.part(shard.worker, "profile_state") for shard in self._plan.shards]
        beats = Heartbeats(states, time.monotonic())
        self._started = replace(started, reports=tuple(reports), ready_at=time.time(), heartbeats=beats)
        for shard, report in zip(self._plan.shards, reports, strict=True):
            log_binding(shard, report.locality)
            if report.kept_bytes:
                _log.info("weights_taken_up", worker=shard.worker, bytes=report.kept_bytes)
        self._keep_logs = kept
        if self._store:
            self._store.open({report.block_folder: report.block_part.record_bytes for report in reports})
        if self.slot_files:
            self.slot_files.open_folder([report.block_part for report in reports])
        if self._standby:
            self._standby.begin()

    def _look_at_standby(self, progress: LoadProgress) -> None:
        self._refuse_lost_ray()
        progress("starting", 0, 0)

    def _new_actors(self) -> ActorGroup:
        return ActorGroup(self._plan, tile_types(self._spec, kv_types(self._settings.engine)))

    def restart(self, look: Callable[[], None]) -> None:
        def check() -> None:
            self._refuse_closing()
            look()

        with self._changing:
            self._losses += 1
            if self._keeping and self._suspects_weights():
                self._keeping.distrust()
            self._computed = False
            node, started = self._node, self._started
            died = node and node.lost()  # a raylet whose agent died ends its workers first, and then itself
            if started is not None and not died:
                call_apart(started.actors.give_back, check)
            self._end()
            if self._standby and died:
                self._standby.drop(give_back=False)
            if node is not None and died:
                _log.warning("ray_starts_anew", died=died)
                node.end(keep_logs=True)
                node.start(check)
            self._start(lambda phase, done, total: look())

    def _suspects_weights(self) -> bool:
        """Whether the weights may be what the workers died of: so soon, and without a step."""
        ready_at = None if self._started is None else self._started.ready_at
        return not self._computed and (ready_at is None or time.time() - ready_at < FORGET_SECONDS)

    def close(self) -> None:
        if self._store:
            self._store.close()
        self._closing.set()
        started = self._started
        if started is not None:
            started.channel.abort()
        if not self._changing.acquire(timeout=CLOSE_SECONDS):
            _log.error("ray_does_not_answer", seconds=CLOSE_SECONDS)
            if started is not None:
                started.actors.end()
            if self._keeping:
                self._keeping.end()
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
        if self._standby:
            self._standby.stop()
        if self._node is None and self._started is not None:
            self._started.actors.give_back()
        if self._node is not None:  # first, lest Ray tells of every worker that ends
            with self._moving:
                self._node.end(keep_logs=self._keep_logs)
        self._end()
        if self._standby:
            self._standby.drop(give_back=self._node is None)
        if self._keeping:
            self._keeping.end()
        self._tally.close()

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

    # ---- steps, by one thread: the engine's, or a stage's

    @property
    def store(self) -> KvStore | None:
        return self._store

    @property
    def depth(self) -> int:
        return 1

    @property
    def size(self) -> int:
        """How many workers there are, or will be."""
        return len(self._plan.shards)

    def submit(self, step: Step, hidden: NDArray[np.float32] | None = None) -> None:
        channel = self._sound().channel
        self._boundary.begin()
        channel.publish(step, hidden)

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
                self._computed = True
                self._tally.after_step(channel.expert_hits)
                return result
            self.check()
            if time.monotonic() > end:
                self._keep_logs = True
                raise WorkerLost(f"a step took more than {timeout_seconds:.1f} s: the workers do not answer")

    def hidden(self) -> NDArray[np.float32]:  # [T, D]
        """What the last layer made of the tokens of the step collected last."""
        assert self._started is not None
        return self._started.channel.hidden()

    def logits(self, rows: slice = slice(None)) -> NDArray[np.float32]:  # [R, V]
        """What the step collected last drew from, or some of its rows; for measuring, not for serving."""
        assert self._started is not None
        return self._started.channel.logits(rows)[:, : self._spec.vocabulary]

    def logits_of(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:  # [R], [R]
        """Of each row that the step collected last drew from, the logit of one token; for measuring."""
        assert self._started is not None
        return self._started.channel.logits_of(token_ids)

    def _ask_workers(self, method: str, *arguments: object) -> list[Any]:
        """What every worker answers to a call about KV blocks. Raises WorkerLost."""
        started = self._sound()
        return started.actors.ask(partial(self._refuse_lost, started), method, *arguments)

    def check(self) -> None:
        heartbeats, longest = self._sound().heartbeats, self._settings.workers.stuck_seconds
        stuck = None if heartbeats is None else heartbeats.look(time.monotonic())
        if stuck is not None and stuck.seconds >= longest:
            self._keep_logs = True
            told = f"worker {stuck.worker} has been stuck for {longest:.0f} s: its thread {stuck.thread}"
            raise WorkerLost(f"{told} neither computes nor waits", (stuck.worker,))

    def _sound(self) -> StartedWorkers:
        """The workers, if all of them live, and Ray; raises WorkerLost."""
        started = self._started
        self._refuse_lost(started)
        assert started is not None
        return started

    def _refuse_lost(self, started: StartedWorkers | None) -> None:
        """Raise WorkerLost: the service ends, a worker died, or one of Ray's processes."""
        self._refuse_lost_ray()
        lost = "the workers died" if started is None else started.lost()
        if lost:
            self._keep_logs = True
            raise WorkerLost(lost, () if started is None else tuple(started.actors.ended()))

    def _refuse_lost_ray(self) -> None:
        """Raise WorkerLost where nothing can be started: the service ends, or one of Ray's processes died."""
        self._refuse_closing()
        if self._node is not None and (died := self._node.lost()):
            self._keep_logs = True
            raise WorkerLost(f"Ray's {died} died, and the workers with it")

    def _refuse_closing(self) -> None:
        if self._closing.is_set():
            raise _ended()

    # ---- what threads do with their time, by any thread

    def begin_profile(self, level: int) -> Profiling:
        started = self._started
        if started is None or not started.reports:
            raise _restarting()
        profiling = Profiling(started.channel, self._spec, self._plan, kv_types(self._settings.engine))
        self._between_steps(partial(profiling.begin, level))
        return profiling

    def end_profile(self, profiling: RunningProfile, peak: Callable[[int], float], peak_source: str) -> Profile:
        assert isinstance(profiling, Profiling), "it is not this group's"
        found: list[Profile] = []
        with self._moving:  # in which no arena goes
            started = self._started
            if started is None or started.channel is not profiling.channel:
                raise Unavailable("the workers were lost while their profile was taken; take it again")
            self._between_steps(lambda: found.append(profiling.end(peak, peak_source)))
        profiling.close()
        return found[0]

    def _between_steps(self, change: Callable[[], None]) -> None:
        self._boundary.run(change, self._settings.workers.step_timeout_seconds)

    def change_hosts(self, wanted: str) -> tuple[str, ...]:
        raise PlanError("this service was started for one host: start it with --hosts to share its layers out")

    # ---- where everything lies, by any thread

    def counters(self) -> list[np.void]:
        """What each worker has counted, see COUNTERS in protos/arena.py; none while there are no workers."""
        started = self._started
        return [] if started is None else started.counters(self._plan)

    def experts(self) -> tuple[ExpertOwners | None, ...]:
        return self._plan.experts

    def expert_hits(self) -> NDArray[np.int64]:  # [L, E]
        started = self._started
        if started is None:
            raise _restarting()
        return started.channel.expert_hits()

    def expert_counts(self) -> NDArray[np.int64]:  # [L, E]
        """All that this group has chosen, before losses too, as of a second ago; after `close` to the last step."""
        return self._tally.counts

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
                if self._keeping:
                    self._keeping.keep_owners(move.layer, after)

            timeout = self._settings.workers.step_timeout_seconds
            look = partial(self._refuse_lost, started)
            mover = ExpertMover(started.channel, started.actors.handles, self._boundary, timeout, look)
            changed = mover.move(move, owners, moved)
            reports = tuple(changed.get(worker, report) for worker, report in enumerate(started.reports))
            self._started = replace(started, reports=reports)

    def placement(self) -> Placement:
        return placement_of(self._plan, self._started)

    def machines(self, own: MachineFacts) -> tuple[MachineFacts, ...]:
        return (own,)


def _ended() -> WorkerLost:
    return WorkerLost("the workers were ended, as the service ends")


def _restarting() -> Unavailable:
    return Unavailable("the workers are being restarted; try again in a few seconds")
