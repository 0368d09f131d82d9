"""All hosts of a service as one executor of steps: this host's workers run the first layers, the others' the rest.

    engine -> session of this host -> stream -> next host -> ...
                     ^                                |
                     +------- what was drawn ---------+

As many steps are under way as there are hosts. Where anything is lost, on whichever host, all of them are; hosts
whose workers live keep them, and only what died is started anew.

*Guarantees*: as HostGroup's; `close` by any thread ends whoever waits.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.profiling.joining import HostProfile, join_profiles
from numoe.coordinator.profiling.taking import RunningProfile
from numoe.coordinator.stages.host_look import HostPart, join_parts, machine_of
from numoe.coordinator.stages.link import Wire
from numoe.coordinator.stages.session import StageSession
from numoe.coordinator.workers.expert_tally import ExpertTally
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.placement import Placement
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.moves import ExpertMove
from numoe.protos.arena import COUNTERS
from numoe.protos.errors import HostsChanged, PlanError, SetupError, Unavailable, WorkerLost
from numoe.protos.messages import Step, StepLimits, StepResult
from numoe.protos.profile import Profile

WATCH_SECONDS = 0.05  # how often who waits looks whether something was lost
OPEN_SECONDS = 60.0  # for all hosts to open their streams

Look = Callable[[], None]

_log = structlog.get_logger()


class HostGone(WorkerLost):
    """A host is not there any more, and was waited for."""


class StageHost(Protocol):
    """Another host of the service; all but `restore` by any thread."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def address(self) -> str:
        """Of its stream."""

    @property
    def spec(self) -> ModelSpec:
        """Its layers."""

    def restore(self, look: Look) -> None:
        """Have all of its workers live, loaded and idle, whatever of them died.

        Raises WorkerLost, HostGone, SetupError.
        """

    def placement(self) -> Placement:
        """As it told last, which is soon said; of one that is lost, that its workers are."""

    def machine(self) -> MachineFacts:
        """As it told last."""

    def counters(self) -> list[np.void]:
        """Of each worker, as it told last, signs of life by this host's clock; none of one that is lost."""

    def expert_hits(self) -> NDArray[np.int64]:
        """[L, E] as it told last. Raises Unavailable: it told none."""

    def expert_counts(self) -> NDArray[np.int64]:
        """[L, E] of all workers that it had, as it told last; after `close` to the last step."""

    def move_expert(self, move: ExpertMove) -> None: ...

    def begin_profile(self, level: int) -> None:
        """As of Workers. Raises ServiceError."""

    def end_profile(self) -> Profile:
        """Of this host's layers, since it was begun. Raises ServiceError."""

    def close_profile(self) -> None:
        """Have it note no more; nothing is waited for."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HostsProfiling:
    """A profile that is being taken of all hosts. Implements RunningProfile (profiling/taking.py)."""

    own: RunningProfile
    hosts: tuple[StageHost, ...]

    @property
    def steps(self) -> int:
        return self.own.steps

    def close(self) -> None:
        self.own.close()
        for host in self.hosts:
            host.close_profile()


@dataclass(frozen=True, slots=True)
class Hosts:
    """All hosts of a service, whose workers are loaded."""

    group: HostGroup  # this host's, with the first layers
    others: tuple[StageHost, ...]  # in the order of their layers
    wire: Wire
    address: str = ""  # of this host, for people

    def close(self) -> None:
        """End the workers of all."""
        if self.others:
            with ThreadPoolExecutor(len(self.others), thread_name_prefix="numoe-close") as pool:
                for host in self.others:  # first, as this host's group ends the connection to the others
                    pool.submit(host.close)
        self.group.close()


class Loader(Protocol):
    """Who loads the model on hosts."""

    def load_anew(self, look: Look) -> Hosts:
        """On the hosts that are there. Raises HostsMissing: they cannot serve the model; to be tried again."""

    def want(self, wanted: str) -> tuple[str, ...]:
        """By any thread: have `load_anew` take these hosts; returns which. Raises SetupError, ServiceError."""

    def end(self) -> None:
        """No more is loaded."""


class Pipeline:
    """Implements Workers (workers/placement.py)."""

    store = slot_files = None  # of what is kept each host would need its layers' part

    def __init__(
        self, hosts: Hosts, step_timeout_seconds: float, loader: Loader, tally: ExpertTally | None = None
    ) -> None:
        """`tally`: who keeps count of the experts that are chosen on all hosts."""
        self._tally = tally
        self._all, self._timeout, self._loader = hosts, step_timeout_seconds, loader
        self._answers: queue.SimpleQueue[StepResult | WorkerLost] = queue.SimpleQueue()
        self._began: dict[int, float] = {}
        self._session: StageSession | None = None
        self._anew = ""  # why all layers are to be loaded anew, on other hosts; "": they are not
        self._ended = False  # whether the workers of `_all` are
        self._closed = False

    @property
    def limits(self) -> StepLimits:
        return self._group.limits

    @property
    def _group(self) -> HostGroup:
        return self._all.group

    @property
    def _hosts(self) -> tuple[StageHost, ...]:
        return self._all.others

    @property
    def depth(self) -> int:
        return 1 + len(self._hosts)

    # ---- from start to end

    def open(self) -> None:
        """Open the streams from host to host. Raises WorkerLost."""
        self._answers, self._began = queue.SimpleQueue(), {}
        answers = self._answers
        session = StageSession(self._group, 0, self._timeout, answers.put, answers.put)
        session.open(self._all.wire, tuple(host.address for host in self._hosts), OPEN_SECONDS)
        self._session = session

    def restart(self, look: Look) -> None:
        self._end_session()
        if self._anew:
            self._load_on_others(look)
            return
        try:
            self._group.check()
        except WorkerLost:  # first, as it may bring the connection to the others back
            self._group.restart(look)
        given_up = Event()

        def look_apart() -> None:  # `look` is for this thread alone
            if given_up.is_set():
                raise WorkerLost("the restart was given up")

        with ThreadPoolExecutor(self.depth, thread_name_prefix="numoe-restore") as pool:
            restoring = {host: pool.submit(host.restore, look_apart) for host in self._hosts}
            try:
                while wait(restoring.values(), WATCH_SECONDS).not_done:
                    look()
                    self._group.check()
            except BaseException:
                given_up.set()
                raise
        gone = [host.name for host, one in restoring.items() if isinstance(one.exception(), HostGone)]
        if gone:
            _log.warning("hosts_gone", hosts=gone, remaining=1 + len(self._hosts) - len(gone))
            self._anew = f"{', '.join(gone)} are gone, and others run their layers"
            self._load_on_others(look)
            return
        for one in restoring.values():
            one.result()
        self.open()

    def _load_on_others(self, look: Look) -> None:
        """Have the hosts that are there now run all layers. Raises what loading raises, as where they have no room."""
        if not self._ended:
            self._end_all()
            self._ended = True
        try:
            self._all = self._loader.load_anew(look)
        except BaseException:
            if self._closed:
                self._loader.end()
            raise
        self._anew, self._ended = "", False
        if self._closed:
            self._all.close()
            raise _ended()
        self.open()

    def change_hosts(self, wanted: str) -> tuple[str, ...]:
        try:
            hosts = self._loader.want(wanted)
        except SetupError as error:
            raise PlanError(str(error)) from error
        self._anew = f"the layers are shared out over {', '.join(hosts)}"
        return hosts

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._answers.put(_ended())
        if not self._ended:
            self._end_all()
        self._loader.end()
        self._end_session()
        if self._tally:
            self._tally.close()

    def _end_all(self) -> None:
        self._all.close()
        if self._tally:
            self._tally.end_group(self._expert_counts())

    # ---- steps, by the engine's thread

    def submit(self, step: Step) -> None:
        session = self._sound()
        self._began[step.number] = time.monotonic()
        session.run(step, None)

    def collect(self, timeout_seconds: float) -> StepResult:
        end = time.monotonic() + timeout_seconds
        while True:
            try:
                answer = self._answers.get(timeout=WATCH_SECONDS)
            except queue.Empty:
                self._sound()
                if time.monotonic() > end:
                    problem = f"a step took more than {timeout_seconds:.1f} s: the hosts do not answer"
                    raise WorkerLost(problem) from None
                continue
            if isinstance(answer, WorkerLost):
                raise answer
            if self._tally:
                self._tally.after_step(self._expert_counts)
            return replace(answer, seconds=time.monotonic() - self._began.pop(answer.number, end))

    def check(self) -> None:
        self._sound()

    def _sound(self) -> StageSession:
        if self._closed:
            raise _ended()
        if self._anew:
            raise HostsChanged(self._anew)
        if self._session is None:
            raise WorkerLost("the hosts were lost")
        self._session.check()
        return self._session

    # ---- where everything lies, by any thread

    def placement(self) -> Placement:
        return join_parts(self._parts(), ["", *(host.name for host in self._hosts)])

    def machines(self, own: MachineFacts) -> tuple[MachineFacts, ...]:
        found, before = [machine_of(own, self._all.address, 0)], self._group.size
        for host in self._hosts:
            found.append(machine_of(host.machine(), host.name, before))
            before += len(host.placement().workers)
        return tuple(found)

    def experts(self) -> tuple[ExpertOwners | None, ...]:
        return self.placement().experts

    def counters(self) -> list[np.void]:
        parts = [(self._group.counters(), self._group.size)]
        parts += [(host.counters(), len(host.placement().workers)) for host in self._hosts]
        counted: list[np.void] = []
        for own, workers in parts:  # of those that are lost zeros, so that nobody's are taken for another's
            counted += own or list(np.zeros(workers, COUNTERS))
        return counted

    @property
    def _heard(self) -> bool:
        """Whether the other hosts answer, as far as is known."""
        session = self._session
        return session is not None and not session.late

    def expert_hits(self) -> NDArray[np.int64]:
        return np.concatenate([self._group.expert_hits(), *(host.expert_hits() for host in self._hosts)])

    def _expert_counts(self) -> NDArray[np.int64]:
        """[L, E] of all workers that these hosts had."""
        return np.concatenate([self._group.expert_counts(), *(host.expert_counts() for host in self._hosts)])

    def begin_profile(self, level: int) -> RunningProfile:
        profiling = HostsProfiling(self._group.begin_profile(level), self._hosts)
        try:
            for host in self._hosts:
                host.begin_profile(level)
        except BaseException:
            profiling.close()
            raise
        return profiling

    def end_profile(self, profiling: RunningProfile, peak: Callable[[int], float], peak_source: str) -> Profile:
        assert isinstance(profiling, HostsProfiling), "it is not the hosts'"
        if profiling.hosts is not self._hosts:
            raise Unavailable("the hosts changed while their profile was taken; take it again")
        own = self._group.end_profile(profiling.own, peak, peak_source)
        parts = [HostProfile(host.name, host.spec.first_layer, host.end_profile()) for host in self._hosts]
        return join_profiles([HostProfile("", 0, own), *parts])

    def move_expert(self, move: ExpertMove) -> None:
        first = 0
        moves: list[Callable[[ExpertMove], None]] = [self._group.move_expert]
        moves += [partial(_move_on, host) for host in self._hosts]
        for part, make in zip(self._parts(), moves, strict=True):
            layer = move.layer - part.first_layer
            if layer < len(part.placement.experts):
                target = None if move.target is None else move.target - first
                if not {move.source - first, target or 0} <= set(range(part.workers)):
                    raise PlanError(f"layer {move.layer} is another host's than worker {move.source} or {move.target}")
                make(replace(move, layer=layer, source=move.source - first, target=target))
                return
            first += part.workers

    def _parts(self) -> list[HostPart]:
        own, heard = HostPart(0, self._group.placement()), self._heard
        parts = [HostPart(host.spec.first_layer, host.placement()) for host in self._hosts]
        return [own, *(part if heard else part.silent() for part in parts)]


def _move_on(host: StageHost, move: ExpertMove) -> None:
    host.move_expert(move)


def _ended() -> WorkerLost:
    return WorkerLost("the workers were ended, as the service ends")
