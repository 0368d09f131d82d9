"""The parent of all workers: starts one Ray actor per shard, bound to its node, loads them, watches them, ends them.

Ray starts, places and ends processes; steps go through the arena. A worker's death shows on its pidfd at once, so a
step in flight ends within WATCH_SECONDS of it. A group that lost a worker is never mended: `restart` ends the rest and
starts a new group with a new arena.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from numoe.coordinator.workers.ray_node import remove_session, start_ray  # sets what Ray reads when it is imported

# isort: split
import numpy as np
import ray
import structlog
from numpy.typing import NDArray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from numoe.coordinator.settings import KV_TYPES, ServeSettings, context_tokens, kv_tokens
from numoe.coordinator.workers.expert_mover import ExpertMover
from numoe.coordinator.workers.expert_tally import ExpertTally
from numoe.coordinator.workers.placement import LoadProgress, Placement, WorkerPlacement, WorkerState
from numoe.coordinator.workers.step_boundary import StepBoundary
from numoe.coordinator.workers.step_channel import StepChannel
from numoe.coordinator.workers.survivors import start_watching
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.id_lists import format_id_list
from numoe.model.planning.assignment import WorkerAssignment, layout_of
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.plan import ShardPlan
from numoe.protos.arena import LOADING, READY
from numoe.protos.errors import ServiceError, SetupError, Unavailable, WorkerLost
from numoe.protos.locality import VERIFIED
from numoe.protos.messages import Step, StepLimits, StepResult

BLOCK_POSITIONS = 64  # of a KV block: the kernels are built for it
WATCH_SECONDS = 0.05  # how often a waiting coordinator looks at its workers
POLL_SECONDS = 0.1  # how often progress is told while loading
END_SECONDS = 60.0  # for a killed worker to be gone: giving back hundreds of GB takes the kernel a while
SPINS = 20_000  # some 0.3 ms: waits inside a step are shorter when nobody disturbs
SPINS_CROWDED = 100  # several threads share a core: spinning would keep the one that is waited for from running
KERNEL_VARIABLES = ("NUMOE_ISA", "XDG_CACHE_HOME")

_log = structlog.get_logger()


def step_limits(spec: ModelSpec, settings: ServeSettings) -> StepLimits:
    """What the workers' memory is laid out for."""
    engine = settings.engine
    return StepLimits(
        step_tokens=engine.step_tokens,
        sequences=min(engine.sequences, engine.step_tokens),
        context_tokens=context_tokens(engine, spec.context_length),
        kv_blocks=-(-kv_tokens(engine, spec.context_length) // BLOCK_POSITIONS),
        block_positions=BLOCK_POSITIONS,
    )


def tile_types(spec: ModelSpec, kv_type: TensorType) -> list[str]:
    """What workers run tiles of, as worker/running/warm.py names it: the types of the matrices and of the KV cache."""
    values = ["values"] if kv_type == TensorType.Q8_0 else []
    return sorted(type_.name for type_ in spec.matrix_types | {kv_type}) + values


def start_workers(
    *, model_path: Path, spec: ModelSpec, plan: ShardPlan, settings: ServeSettings, progress: LoadProgress
) -> RayWorkers:
    """Start Ray, compile what is not in the cache yet, and load a worker per shard.

    Raises:
        SetupError: a worker cannot become what the plan says; the message tells why.
        ServiceError: the workers did not start in time.
    """
    del model_path  # the spec's tensors name their files
    owns_ray, session = not ray.is_initialized(), None
    if owns_ray:
        start_watching()
    warm = [sys.executable, "-m", "numoe.worker.running.warm", *tile_types(spec, KV_TYPES[settings.engine.kv_type])]
    with subprocess.Popen(warm, stderr=subprocess.PIPE, text=True) as warming:
        try:
            progress("starting", 0, 0)
            if owns_ray:
                session = start_ray(_units(plan))
            progress("compiling", 0, 0)
            _await_warm(warming, settings.workers.start_timeout_seconds, progress)
            workers = RayWorkers(spec, plan, settings, session)
            try:
                workers.start(progress)
            except BaseException:
                workers.close()
                raise
            return workers
        except BaseException:
            warming.kill()
            if owns_ray:
                ray.shutdown()
            raise


def _units(plan: ShardPlan) -> dict[str, float]:
    """One unit of "numaN" per worker of NUMA node N."""
    units: dict[str, float] = {}
    for shard in plan.shards:
        units[f"numa{shard.node}"] = units.get(f"numa{shard.node}", 0.0) + 1.0
    return units


def _await_warm(warming: subprocess.Popen[str], seconds: float, progress: LoadProgress) -> None:
    end = time.monotonic() + seconds
    while warming.poll() is None:
        if time.monotonic() > end:
            raise ServiceError(f"compiling the kernels took more than {seconds:.0f} s; is the machine overloaded?")
        progress("compiling", 0, 0)
        time.sleep(POLL_SECONDS)
    if warming.returncode != 0:
        errors = warming.communicate()[1].strip().splitlines()
        raise SetupError(f"compiling the kernels failed: {errors[-1] if errors else 'no message'}")


def _kernel_environment() -> dict[str, str]:
    """What chooses the compiled kernels; a Ray node that was there before has an environment of its own."""
    return {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}


def _crowded(plan: ShardPlan) -> bool:
    """Whether two computing threads share a CPU."""
    cpus = [cpu for shard in plan.shards for cpu in shard.cpus]
    return len(set(cpus)) < len(cpus)


class RayWorkers:
    """Implements Workers (placement.py): the executor of the engine's steps."""

    def __init__(self, spec: ModelSpec, plan: ShardPlan, settings: ServeSettings, session: Path | None) -> None:
        """`session`: of the Ray node that was started for this; None: there was one before."""
        self._spec, self._plan, self._settings, self._session = spec, plan, settings, session
        self._sound = True  # nobody will want the session's logs
        self._limits = step_limits(spec, settings)
        self._tally = ExpertTally(spec, settings.workers.expert_stats)
        self._channel: StepChannel | None = None
        self._group: Any = None
        self._actors: list[Any] = []
        self._pids: list[int] = []
        self._watched: list[int] = []  # pidfds
        self._reports: list[Any] = []
        self._boundary, self._moving = StepBoundary(), Lock()

    @property
    def limits(self) -> StepLimits:
        return self._limits

    def start(self, progress: LoadProgress) -> None:
        """Start and load a new group; nothing of an old one may be left."""
        sound, self._sound = self._sound, False
        end = time.monotonic() + self._settings.workers.start_timeout_seconds
        nodes = tuple(shard.node for shard in self._plan.shards)
        self._channel = StepChannel(layout_of(self._spec, self._plan, self._limits), self._plan.experts, nodes)
        self._start_actors(end)
        loading = [
            actor.load.remote(self._order(worker, self._channel.descriptor))
            for worker, actor in enumerate(self._actors)
        ]
        pending = loading
        while pending:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=POLL_SECONDS)
            counters = [self._channel.counters(worker) for worker in range(len(self._actors))]
            done, total = (sum(int(c[name]) for c in counters) for name in ("loaded_bytes", "total_bytes"))
            progress("loading", done, total)
            if time.monotonic() > end:
                raise ServiceError(f"loading took more than {self._settings.workers.start_timeout_seconds:.0f} s")
        self._reports = self._loaded(loading)
        self._tell_binding()
        self._sound = sound

    def _start_actors(self, end: float) -> None:
        from numoe.worker.running.actor import WorkerActor

        shards = self._plan.shards
        self._group = placement_group([{f"numa{shard.node}": 1.0} for shard in shards], strategy="STRICT_PACK")
        for shard in shards:
            wrapper = [
                sys.executable,
                "-m",
                "numoe.worker.placing.binding",
                str(shard.node),
                format_id_list(sorted(set(shard.cpus))),
            ]
            threads = str(len(shard.cpus))
            options = WorkerActor.options(  # type: ignore[attr-defined]  # added by ray.remote
                num_cpus=0,
                name=None,
                max_concurrency=2,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, shard.worker),
                runtime_env={
                    "py_executable": " ".join([*wrapper, sys.executable]),
                    "env_vars": {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, **_kernel_environment()},
                },
            )
            self._actors.append(options.remote())
        try:
            self._pids = ray.get(
                [actor.pid.remote() for actor in self._actors], timeout=max(1.0, end - time.monotonic())
            )
        except ray.exceptions.RayError as error:
            raise ServiceError(f"worker processes did not start: {error}") from error
        self._watched = [os.pidfd_open(pid) for pid in self._pids]

    def _order(self, worker: int, arena: int) -> WorkerAssignment:
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

    def _loaded(self, loading: list[Any]) -> list[Any]:
        reports = []
        for worker, reference in enumerate(loading):
            try:
                report = ray.get(reference)
            except ray.exceptions.RayError as error:
                raise WorkerLost(f"worker {worker} died while loading: {error}") from error
            if isinstance(report, str):
                raise SetupError(report)
            reports.append(report)
        return reports

    def _tell_binding(self) -> None:
        """Log how sure it is that memory and threads are where they should be; loud where it is not."""
        for worker, report in enumerate(self._reports):
            found = report.locality
            facts = {"worker": worker, "node": self._plan.shards[worker].node, "binding": found.level}
            if found.moved_bytes:
                facts["moved_bytes"] = found.moved_bytes
            if found.level.endswith(VERIFIED):
                _log.info("worker_bound", **facts)
            else:
                why = found.problem or "the kernel does not tell where pages are, or was not asked to bind them"
                _log.warning("worker_binding_unsure", **facts, why=why)

    def submit(self, step: Step) -> None:
        self.check()
        assert self._channel is not None
        self._boundary.begin()
        self._channel.publish(step)

    def collect(self, timeout_seconds: float) -> StepResult:
        try:
            return self._result(timeout_seconds)
        finally:
            self._boundary.end()

    def _result(self, timeout_seconds: float) -> StepResult:
        assert self._channel is not None
        end = time.monotonic() + timeout_seconds
        while True:
            result = self._channel.wait(WATCH_SECONDS)
            if result is not None:
                self._tally.after_step(self._channel.expert_hits)
                return result
            self.check()
            if time.monotonic() > end:
                self._sound = False
                raise WorkerLost(f"a step took more than {timeout_seconds:.1f} s: the workers do not answer")

    def logits(self) -> NDArray[np.float32]:  # [R, V]
        """What the step collected last drew from; for measuring, not for serving."""
        assert self._channel is not None
        return self._channel.logits()[:, : self._spec.vocabulary]

    def check(self) -> None:
        dead, _, _ = select.select(self._watched, [], [], 0)
        if dead or not self._watched:
            self._sound = False
            lost = [str(worker) for worker, watched in enumerate(self._watched) if watched in dead]
            raise WorkerLost(f"worker {', '.join(lost) or 'of this group'} died; its requests can be sent again")

    def restart(self) -> None:
        self._give_back()
        self._end_group()
        self.start(lambda phase, done, total: None)
        _log.info("workers_restarted", pids=self._pids)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.abort()
        if self._session is not None:
            ray.shutdown()  # first, lest it tells of every worker that ends
        else:
            self._give_back()
        self._end_group()
        self._tally.close()
        if self._session is not None and self._sound:
            remove_session(self._session)

    def _give_back(self) -> None:
        """Tell Ray that the group is over, so that another one finds room."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        if self._group is not None:
            remove_placement_group(self._group)

    def _end_group(self) -> None:
        """End every worker and wait until it is gone, and its memory with it."""
        if self._channel is not None:
            self._tally.end_group(self._channel.expert_hits() if self._channel.idle else None)
            self._channel.abort()
        for watched in self._watched:  # Ray asks first: a stopped worker, which cannot hear it, lived over 2 s longer
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(watched, signal.SIGKILL)
        for worker, watched in enumerate(self._watched):
            if not select.select([watched], [], [], END_SECONDS)[0]:
                _log.error("worker_outlives_kill", worker=worker, pid=self._pids[worker])
            os.close(watched)
        with self._moving:  # a move that was under way has failed by now, and must not be taken for the next group's
            if self._channel is not None:
                self._channel.close()
            self._channel, self._group = None, None
            self._actors, self._pids, self._watched, self._reports = [], [], [], []

    def experts(self) -> tuple[ExpertOwners | None, ...]:
        return self._plan.experts

    def expert_hits(self) -> NDArray[np.int64]:  # [L, E]
        if self._channel is None:
            raise Unavailable("the workers are being restarted; try again in a few seconds")
        return self._channel.expert_hits()

    def move_expert(self, move: ExpertMove) -> None:
        with self._moving:
            channel, owners = self._channel, self._plan.experts[move.layer]
            if channel is None or not self._reports:  # a group that loads has its orders already
                raise Unavailable("the workers are being restarted; try again in a few seconds")
            assert owners is not None, move

            def moved(after: ExpertOwners) -> None:
                experts = list(self._plan.experts)
                experts[move.layer] = after
                self._plan = replace(self._plan, experts=tuple(experts))  # what a restart will load

            timeout = self._settings.workers.step_timeout_seconds
            changed = ExpertMover(channel, self._actors, self._boundary, timeout).move(move, owners, moved)
            self._reports = [changed.get(worker, report) for worker, report in enumerate(self._reports)]

    def placement(self) -> Placement:
        channel, reports, pids = self._channel, self._reports, self._pids
        placed = []
        for shard in self._plan.shards:
            number = shard.worker
            state: WorkerState = "starting"
            if channel is None:
                state = "lost"
            elif channel.state(number) in (LOADING, READY):
                state = "ready" if channel.state(number) == READY else "loading"
            report = reports[number] if number < len(reports) else None
            placed.append(
                WorkerPlacement(
                    shard=shard,
                    state=state,
                    pid=pids[number] if number < len(pids) else None,
                    weight_bytes=report.weight_bytes if report else None,
                    kv_bytes=report.kv_bytes if report else None,
                    locality=report.locality if report else None,
                )
            )
        return Placement(split=self._plan.split, workers=tuple(placed), experts=self._plan.experts)
