"""Another host of the service, as its coordinator sees it: an actor of Ray's there, called and started anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.cluster import ray_node  # noqa: F401  sets what Ray reads when it is imported
from numoe.coordinator.cluster.ray_calls import inside_ray

# isort: split
import ray

from numoe.coordinator.machine.machine_look import LOOK_SECONDS as MACHINE_SECONDS
from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.stages.host_actor import HostActor, HostOrder, Refusal
from numoe.coordinator.stages.host_look import HostLook
from numoe.coordinator.stages.pipeline import HostGone
from numoe.coordinator.workers.actors import HERE, fetch
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.moves import ExpertMove
from numoe.protos.errors import NumoeError, ServiceError, SetupError, Unavailable, WorkerLost
from numoe.protos.profile import Profile

ASK_SECONDS = 5.0  # for an actor that lives to answer; one that does not is replaced
LEAVE_SECONDS = 5.0  # for who looks to see that it is over, ten times a second
LOOK_SECONDS = 0.5  # between two looks; operators are shown one a second
CALLS = 8  # at once: steps do not go through Ray, but loading, looks and restoring do


class RayHost:
    """Implements StageHost (pipeline.py): a thread looks at it, and whoever asks is told at once what was seen last."""

    def __init__(self, ip: str, spec: ModelSpec, order: HostOrder) -> None:
        """`spec`: its layers, as the first host reads them."""
        self.name, self.spec, self.address = ip, spec, ""
        self._order, chosen = order, order.settings.workers
        self._timeout, self._gone_seconds = chosen.start_timeout_seconds, chosen.host_gone_seconds
        self._actor: Any = None
        self._loaded = False
        self._noting = Lock()
        self._over, self._following = Event(), Thread()  # of who looks at the actor
        self._told: HostLook | None = None  # as of the last look
        self._machine: MachineFacts | None = None
        none = np.zeros((spec.layers, spec.experts), np.int64)
        self._counts = none, none  # [L, E] that its experts were chosen, by lost actors and by this one
        self._asked_ns = 0  # when that was asked for
        self._lost = True  # what was told then is over

    def begin(self, progress: LoadProgress) -> None:
        """Start the actor there, and have it load. Raises SetupError, WorkerLost, and what `progress` raises."""
        self._loaded = False
        self._counts = self.expert_counts(), np.zeros_like(self._counts[1])
        self._actor = actor = start_actor(self.name)
        loading, end = actor.load.remote(self._order), time.monotonic() + self._timeout
        asked, told = actor.progress.remote(), ("starting", 0, 0)
        there = time.monotonic()

        def look() -> None:
            nonlocal asked, told, there
            there = time.monotonic() if self.name in living_hosts() else there
            if time.monotonic() - there > self._gone_seconds:
                raise HostGone(f"host {self.name} has been gone for {self._gone_seconds:.0f} s")
            if ray.wait([asked], timeout=0)[0]:
                told, asked = self._fetch(lambda: asked, lambda: None), actor.progress.remote()
            progress(*told)
            if time.monotonic() > end:
                raise ServiceError(f"host {self.name} did not load within {self._timeout:.0f} s")

        self.address = self._accept(self._fetch(lambda: loading, look))
        self._see_machine(self._fetch(lambda: actor.machine.remote(), look))
        self._loaded = True
        self._look()
        self._over = over = Event()
        self._following = Thread(target=self._follow, args=(actor, over), name=f"numoe-look-{self.name}", daemon=True)
        self._following.start()

    def restore(self, look: Callable[[], None]) -> None:
        if self._actor is not None and self._lives():
            try:
                self._accept(self._fetch(lambda: self._actor.restore.remote(), look))
                self._look()
            except WorkerLost:
                self._end_actor()
                raise
            return
        self._end_actor()
        self.begin(lambda phase, done, total: look())

    def placement(self) -> Placement:
        told = self._told
        if told is None:
            return Placement("tensor", (), (None,) * self.spec.layers)
        if not self._lost:
            return told.placement
        lost = tuple(WorkerPlacement(worker.shard, "lost") for worker in told.placement.workers)
        return replace(told.placement, workers=lost, ready_at=None)

    def machine(self) -> MachineFacts:
        assert self._machine is not None, "no host is part of a service before it has told that"
        return self._machine

    def counters(self) -> list[np.void]:
        told = self._told
        return [] if told is None or self._lost else list(told.counters)

    def expert_hits(self) -> NDArray[np.int64]:
        if self._told is None or self._told.hits is None:
            raise Unavailable("a host is being restarted; try again in a few seconds")
        return self._told.hits

    def expert_counts(self) -> NDArray[np.int64]:
        before, now = self._counts
        return before + now

    def move_expert(self, move: ExpertMove) -> None:
        self._accept(self._ask(lambda: self._actor.move_expert.remote(move)))
        self._look()

    def begin_profile(self, level: int) -> None:
        self._of_profile(lambda: self._actor.begin_profile.remote(level))

    def end_profile(self) -> Profile:
        found = self._of_profile(lambda: self._actor.end_profile.remote())
        assert isinstance(found, Profile)
        return found

    def close_profile(self) -> None:
        with suppress(Exception):  # of Ray's, or of a host that is no more: then nobody notes anything
            self._actor.close_profile.remote()

    def _of_profile(self, call: Callable[[], Any]) -> Any:
        """What the actor answers between two steps. Raises ServiceError."""
        found = self._ask(call, ASK_SECONDS + self._order.settings.workers.step_timeout_seconds)
        if isinstance(found, Refusal):
            raise Unavailable(f"host {self.name}: {found.message}")
        return found

    def close(self) -> None:
        actor = self._leave()
        if actor is not None and (counts := end_actor(actor)) is not None:
            self._counts = self._counts[0], counts

    def _lives(self) -> bool:
        try:
            self._ask(lambda: self._actor.progress.remote())
        except WorkerLost:
            return False
        return True

    def _end_actor(self) -> None:
        actor = self._leave()
        if actor is not None:
            with suppress(Exception):  # of Ray's, which may have been lost itself
                ray.kill(actor, no_restart=True)

    def _leave(self) -> Any:
        """Give up the actor, which is returned: nobody else refers to it then, as Ray's end wants it."""
        actor, self._actor, self._loaded, self._lost = self._actor, None, False, True
        self._over.set()
        if self._following.ident is not None:
            self._following.join(LEAVE_SECONDS)
        return actor

    def _look(self) -> None:
        """Look at it at once. Raises WorkerLost: it does not answer."""
        actor, asked_ns = self._actor, time.monotonic_ns()
        self._note(actor, asked_ns, self._ask(lambda: actor.look.remote()))

    def _follow(self, actor: Any, over: Event) -> None:
        """Look at it now and then, until that is over; one that does not answer is not asked again."""

        def look() -> None:
            if over.is_set():
                raise WorkerLost("another one is asked")

        machine_at = time.monotonic()
        while not over.wait(LOOK_SECONDS):
            asked_ns = time.monotonic_ns()
            with suppress(WorkerLost), inside_ray():  # where what it returns, or raises, is dropped, too
                try:
                    self._note(actor, asked_ns, self._fetch(lambda: actor.look.remote(), look))
                except WorkerLost:
                    self._note(actor, asked_ns, None)
                if time.monotonic() - machine_at >= MACHINE_SECONDS:
                    machine_at = time.monotonic()
                    with suppress(NumoeError):
                        self._see_machine(self._fetch(lambda: actor.machine.remote(), look))

    def _see_machine(self, found: MachineFacts | Refusal) -> None:
        facts = self._accept(found)
        self._machine = replace(facts, host=replace(facts.host, told_at=round(time.time(), 1)))  # by this clock

    def _note(self, actor: Any, asked_ns: int, told: HostLook | None) -> None:
        """Take what it told, or that it is lost; what was asked for before the last look is old."""
        with self._noting:
            if self._actor is actor and asked_ns > self._asked_ns:
                self._asked_ns, self._lost = asked_ns, told is None
                if told is not None:
                    self._told = told.heard(time.monotonic_ns())
                    self._counts = self._counts[0], told.counts

    def _ask(self, call: Callable[[], Any], seconds: float = ASK_SECONDS) -> Any:
        """What the actor answers in time. Raises WorkerLost: it does not."""
        if self._actor is None or not self._loaded:
            raise WorkerLost(f"host {self.name} was lost")
        end = time.monotonic() + seconds

        def look() -> None:
            if time.monotonic() > end:
                raise WorkerLost(f"host {self.name} does not answer")

        return self._fetch(call, look)

    def _fetch(self, call: Callable[[], Any], look: Callable[[], None]) -> Any:
        """What a call of the actor returns. Raises WorkerLost where Ray cannot tell."""
        try:
            with inside_ray():
                return fetch(call(), look)
        except NumoeError:
            raise
        except Exception as error:  # of Ray's, whatever it is
            raise WorkerLost(f"host {self.name}: {str(error).partition(chr(10))[0]}") from error

    def _accept(self, found: Any) -> Any:
        if isinstance(found, Refusal):
            told = f"host {self.name}: {found.message}"
            raise WorkerLost(told, found.workers) if found.lost else SetupError(told)
        return found


def living_hosts() -> list[str]:
    """Addresses of the hosts that Ray takes to be there."""
    with inside_ray():
        every = ray.nodes()  # type: ignore[no-untyped-call]
    return [one["NodeManagerAddress"] for one in every if one["Alive"]]


def start_actor(ip: str) -> Any:
    """An actor on the host of this address."""
    return HostActor.options(  # type: ignore[attr-defined]  # added by ray.remote
        num_cpus=0, max_concurrency=CALLS, resources={f"node:{ip}": HERE}
    ).remote()


def end_actor(actor: Any) -> Any:
    """Have an actor end all that it started, and itself; returns what its `close` does, or None."""
    told = None
    with suppress(Exception):  # of Ray's, which may be lost: then its processes are, too
        told = ray.get(actor.close.remote(), timeout=ASK_SECONDS)
    with suppress(Exception):
        ray.kill(actor, no_restart=True)
    return told
