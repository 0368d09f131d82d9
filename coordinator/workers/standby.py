"""Spare worker processes beside those that serve: bound to their nodes, code loaded, without a shard.

What takes longest after a loss is Ray's start of processes and their imports: 8 of 9 s with two workers on two cores.
So the next group's processes are started as soon as the last one's have loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress

import structlog

from numoe.coordinator.cluster.ray_calls import call_apart
from numoe.coordinator.workers.actors import ActorGroup
from numoe.protos.errors import WorkerLost

POLL_SECONDS = 0.05  # between two looks of who waits for them
GIVE_BACK_SECONDS = 5.0  # for Ray to hear that they are not needed

_log = structlog.get_logger()


class _Unwanted(Exception):
    """They are not needed any more."""


class Standby:
    """The processes of the group to come; used by one thread at a time, but for those that it starts."""

    def __init__(self, make: Callable[[], ActorGroup], refuse_lost: Callable[[], None]) -> None:
        """`make`: processes that are not started; `refuse_lost` raises where none can be, as Ray is lost or ends."""
        self._make, self._refuse_lost = make, refuse_lost
        self._unwanted = threading.Event()
        self._starting: Future[ActorGroup | None] | None = None

    def begin(self) -> None:
        """Start them, in a thread; `take` or `drop` what was begun before."""
        assert self._starting is None
        self._unwanted, self._starting = threading.Event(), Future()
        arguments = self._starting, self._unwanted
        threading.Thread(target=self._start, args=arguments, name="numoe-standby", daemon=True).start()

    def take(self, look: Callable[[], None]) -> ActorGroup | None:
        """Those that were begun, started as far as they will be without a shard; None: there are none.

        Calls `look` now and then, whose exceptions end the waiting.
        """
        if self._starting is None:
            return None
        while not wait([self._starting], POLL_SECONDS).done:
            look()
        actors, self._starting = self._starting.result(), None
        if actors is not None and actors.ended():
            _end(actors, give_back=True)
            return None
        return actors

    def stop(self) -> None:
        """Start no further what was begun; `drop` ends it."""
        self._unwanted.set()

    def drop(self, *, give_back: bool = True) -> None:
        """End them, wherever they are. `give_back`: tell Ray, which lives on."""
        self.stop()
        if self._starting is None:
            return
        actors, self._starting = self._starting.result(), None
        if actors is not None:
            _end(actors, give_back=give_back)

    def _start(self, done: Future[ActorGroup | None], unwanted: threading.Event) -> None:
        # Told only once nothing of a failed start is referred to any more: Ray may be ended then, see ray_calls.py.
        done.set_result(self._started(unwanted))

    def _started(self, unwanted: threading.Event) -> ActorGroup | None:
        actors = self._make()

        def look() -> None:
            if unwanted.is_set():
                raise _Unwanted
            try:
                self._refuse_lost()
            except WorkerLost as lost:
                raise _Unwanted from lost

        try:
            actors.start(look)
            actors.prepare(look)
        except BaseException as error:
            wanted = not isinstance(error, _Unwanted)
            if wanted:
                _log.warning("standby_failed", error=str(error))
            _end(actors, give_back=wanted)
            return None
        _log.info("standby_ready", pids=list(actors.pids))
        return actors


def _end(actors: ActorGroup, *, give_back: bool) -> None:
    if give_back:
        end = time.monotonic() + GIVE_BACK_SECONDS

        def look() -> None:
            if time.monotonic() > end:
                raise TimeoutError

        with suppress(Exception):  # of Ray's: whatever it is, the processes are ended
            call_apart(actors.give_back, look)
    actors.end()
