"""A group of workers is ended by any thread, while another one waits for it or starts it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.settings import EngineSettings, ServeSettings
from numoe.coordinator.workers import group as group_module
from numoe.coordinator.workers.actors import ActorGroup
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.keeping import Keeping
from numoe.coordinator.workers.watching.processes import WatchedProcesses
from numoe.model.planning.assignment import WorkerAssignment
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.arena import FAILED, READY
from numoe.protos.errors import NumoeError, WorkerLost
from numoe.protos.locality import Locality
from numoe.protos.messages import Step
from tests.coordinator.workers.holders import MACHINE, SPEC

PATIENCE_SECONDS = 60.0
PLAN = make_plan(SPEC, MACHINE, PlanOptions(workers=2))
LOCALITY = Locality("cpus+memory", True, (), {}, {}, {}, moved_bytes=0, threads=1, threads_inside=1)
SETTINGS = ServeSettings(engine=EngineSettings(context_tokens=64))


class Sleepers(ActorGroup):
    """Real processes that hold nothing and never answer; `loading` is called while they would load."""

    def __init__(self, plan: ShardPlan, loading: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(plan)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._loading = loading

    def start(self, look: Callable[[], None]) -> None:
        self.processes = [subprocess.Popen(["sleep", "600"]) for _ in self._shards]
        self._told = [os.fdopen(os.memfd_create("told"), "rb", buffering=0) for _ in self._shards]
        self._processes = WatchedProcesses([process.pid for process in self.processes])

    def load(self, assignments: Sequence[WorkerAssignment], look: Callable[[], None]) -> list[Any]:
        self._loading(look)
        return [SimpleNamespace(locality=LOCALITY, weight_bytes=1, kept_bytes=0, kv_bytes=1) for _ in assignments]

    def prepare(self, look: Callable[[], None]) -> None:
        """They have no code to load."""

    def give_back(self) -> None:
        """Nothing: they are not Ray's."""


class SleepingGroup(HostGroup):
    """All but what the processes do is the product's own."""

    def __init__(self, *, standby: bool = False, keeping: Keeping | None = None) -> None:
        super().__init__(SPEC, PLAN, SETTINGS, node=None, standby=standby, keeping=keeping)
        self.loading: Callable[[Callable[[], None]], None] = lambda look: None
        self.made: list[Sleepers] = []

    def _new_actors(self) -> ActorGroup:
        self.made.append(Sleepers(PLAN, lambda look: self.loading(look)))
        return self.made[-1]

    @property
    def living(self) -> list[int]:
        return [one.pid for actors in self.made for one in actors.processes if one.poll() is None]


@pytest.fixture
def group() -> Iterator[SleepingGroup]:
    group = SleepingGroup()
    group.start(lambda phase, done, total: None)
    yield group
    group.close()
    assert group.living == []


class InThread:
    """What a call in another thread raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.error = error

    def join(self) -> Exception | None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        return self.error


def own_descriptors() -> Counter[str]:
    """What this process has open of what a group opens; what else it has open comes and goes with the garbage."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return Counter(target for target in targets if "pidfd" in target or "numoe-arena" in target)


def test_workers_that_were_ended_during_a_step_did_not_die(group: SleepingGroup) -> None:
    waiting = threading.Event()
    group.submit(Step(0, ()))

    def collect() -> None:
        waiting.set()
        try:
            group.collect(PATIENCE_SECONDS)
        finally:
            group.close()  # as the engine's thread does at its end

    with capture_logs() as logs:
        engine = InThread(collect)
        assert waiting.wait(PATIENCE_SECONDS)
        group.close()
        error = engine.join()
    assert isinstance(error, WorkerLost)
    assert "ended, as the service ends" in str(error)
    assert "died" not in str(error)
    assert [one for one in logs if one["log_level"] in ("error", "warning")] == []
    assert group.living == []


def test_a_worker_that_died_or_failed_is_shown_as_lost_at_once(group: SleepingGroup) -> None:
    started = group._sound()
    for worker in range(2):
        started.channel._layout.view(started.channel._arena, f"worker{worker}.state")[0] = READY
    assert [worker.state for worker in group.placement().workers] == ["ready", "ready"]
    died = group.made[0].processes[1]
    died.kill()
    os.waitid(os.P_PID, died.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(WorkerLost, match="worker 1 died") as lost:
        group.check()
    assert lost.value.workers == (1,)
    assert [worker.state for worker in group.placement().workers] == ["ready", "lost"]
    started.channel._layout.view(started.channel._arena, "worker0.state")[0] = FAILED
    assert [worker.state for worker in group.placement().workers] == ["lost", "lost"]


def test_closing_ends_a_restart_that_does_not_end(group: SleepingGroup) -> None:
    loading = threading.Event()

    def load_for_ever(look: Callable[[], None]) -> None:
        loading.set()
        while True:
            look()

    group.loading = load_for_ever
    engine = InThread(lambda: group.restart(lambda: None))
    assert loading.wait(PATIENCE_SECONDS)
    group.close()
    error = engine.join()
    assert isinstance(error, NumoeError)
    assert "as the service ends" in str(error)
    assert group.living == []


def test_many_threads_may_close_at_once_and_every_descriptor_is_closed_once() -> None:
    before = own_descriptors()
    group = SleepingGroup()
    group.start(lambda phase, done, total: None)
    threads = [InThread(group.close) for _ in range(4)]
    assert [thread.join() for thread in threads] == [None] * 4  # closed again, one is a bad descriptor
    assert group.living == []
    assert not own_descriptors() - before  # those of earlier tests may go meanwhile


def test_a_worker_that_died_is_lost_and_all_are_while_they_are_being_ended(group: SleepingGroup) -> None:
    def states() -> list[str]:
        return [worker.state for worker in group.placement().workers]

    group.made[0].processes[1].kill()
    group.made[0].processes[1].wait(PATIENCE_SECONDS)
    assert states() == ["starting", "lost"]
    ending: list[list[str]] = []

    class Ending(Sleepers):
        def end(self) -> None:
            super().end()
            ending.append(states())

    group.made[0].__class__ = Ending
    group.restart(lambda: None)
    assert ending == [["lost", "lost"]]
    assert states() == ["starting", "starting"]
    group.close()
    assert group.living == []


def test_a_lost_worker_is_lost_until_a_new_process_of_it_runs(group: SleepingGroup) -> None:
    def shown() -> list[tuple[str, bool]]:
        return [(worker.state, worker.pid is None) for worker in group.placement().workers]

    seen: list[list[tuple[str, bool]]] = []

    class Starting(Sleepers):
        def start(self, look: Callable[[], None]) -> None:
            seen.append(shown())
            super().start(look)
            seen.append(shown())

    def new_actors() -> ActorGroup:
        group.made.append(Starting(PLAN, group.loading))
        return group.made[-1]

    group._new_actors = new_actors  # type: ignore[method-assign]
    assert group.placement().ready_at is not None
    group.made[0].processes[1].kill()
    group.made[0].processes[1].wait(PATIENCE_SECONDS)
    before = group.placement().ready_at
    group.restart(lambda: None)
    assert seen == [[("lost", True)] * 2, [("starting", False)] * 2]
    after = group.placement()
    assert before is not None
    assert after.ready_at is not None
    assert after.ready_at > before
    group.close()
    assert group.living == []


@pytest.fixture
def group_with_spares() -> Iterator[SleepingGroup]:
    group = SleepingGroup(standby=True)
    group.start(lambda phase, done, total: None)
    yield group
    group.close()
    assert group.living == []


def pids_of(group: SleepingGroup) -> list[int | None]:
    return [worker.pid for worker in group.placement().workers]


def until_spares_run(group: SleepingGroup, groups: int) -> None:
    """Until the processes of so many groups were started."""
    end = time.monotonic() + PATIENCE_SECONDS
    while len(group.made) < groups or len(group.made[-1].processes) < len(PLAN.shards):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_spare_processes_take_the_place_of_lost_ones_and_new_ones_are_started(
    group_with_spares: SleepingGroup,
) -> None:
    for losses in range(1, 4):
        until_spares_run(group_with_spares, losses + 1)
        spares = [process.pid for process in group_with_spares.made[losses].processes]
        assert pids_of(group_with_spares) != spares
        group_with_spares.made[losses - 1].processes[0].kill()
        group_with_spares.restart(lambda: None)
        assert pids_of(group_with_spares) == spares
        assert group_with_spares.made[losses - 1].over


def test_spare_processes_that_died_are_not_used(group_with_spares: SleepingGroup) -> None:
    until_spares_run(group_with_spares, 2)
    spare = group_with_spares.made[1].processes[1]
    spare.kill()
    spare.wait(PATIENCE_SECONDS)
    group_with_spares.restart(lambda: None)
    assert pids_of(group_with_spares) == [process.pid for process in group_with_spares.made[2].processes]
    assert group_with_spares.made[1].over


def test_spare_processes_that_cannot_be_started_are_told_and_done_without(
    group_with_spares: SleepingGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_spares_run(group_with_spares, 2)
    starting = Sleepers.start

    def start(self: Sleepers, look: Callable[[], None]) -> None:
        if threading.current_thread().name == "numoe-standby":
            raise WorkerLost("no memory for a process")
        starting(self, look)

    monkeypatch.setattr(Sleepers, "start", start)
    with capture_logs() as logged:
        group_with_spares.restart(lambda: None)  # takes the spares, and cannot start others
        group_with_spares.restart(lambda: None)
        group_with_spares.close()
    assert [line["error"] for line in logged if line["event"] == "standby_failed"] == ["no memory for a process"] * 2


class NotedKeeping(Keeping):
    """Starts nothing, and notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(SPEC, 0.0)
        self.calls: list[str] = []

    def start(self, plan: ShardPlan) -> None:
        self.calls.append("start")

    def distrust(self) -> None:
        self.calls.append("distrust")

    def end(self) -> None:
        self.calls.append("end")


@pytest.mark.parametrize(("forget_seconds", "suspected"), [(300.0, ["distrust"]), (0.0, [])])
def test_weights_are_read_anew_once_workers_that_took_them_up_are_lost_soon_and_without_a_step(
    forget_seconds: float, suspected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "FORGET_SECONDS", forget_seconds)
    keeping = NotedKeeping()
    group = SleepingGroup(keeping=keeping)
    try:
        group.start(lambda phase, done, total: None)
        group.restart(lambda: None)
        group.restart(lambda: None)
    finally:
        group.close()
    assert group.living == []
    assert keeping.calls == ["start", "start", *suspected, "start", "end"]
