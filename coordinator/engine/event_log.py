"""What happened to the service, for operators: the last so many changes of its life, in order, and a line of log each.

Whoever notes an event here has it logged, too, so that page, `numoe events` and log tell one story.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

import structlog

from numoe.coordinator.engine.latch import Latch

KEPT_EVENTS = 1000  # some 200 kB


class EventKind(StrEnum):
    """What happened."""

    LOADING = "loading"  # the service listens, and loads the model
    SERVING = "serving"  # the model is loaded and requests are taken
    WORKER_LOST = "worker_lost"
    HOSTS_CHANGING = "hosts_changing"  # an operator has the layers shared out over other hosts
    WORKERS_RESTARTING = "workers_restarting"
    WORKERS_RESTARTED = "workers_restarted"
    START_REFUSED = "start_refused"  # lost workers could not be brought back this time
    ENGINE_FAILED = "engine_failed"
    REBALANCE_BEGUN = "rebalance_begun"
    REBALANCE_ENDED = "rebalance_ended"  # all moves are made, or it was given up, as the text says
    WORKER_DRAINED = "worker_drained"  # it holds no experts any more that others have no copy of
    REQUEST_ABORTED = "request_aborted"  # by an operator
    KEYS_RELOADED = "keys_reloaded"  # those of the file as it is now are good, and no others
    HUNG_UP = "hung_up"  # SIGHUP, and there is no file of keys
    KEYS_REFUSED = "keys_refused"  # the file is broken, and the keys that were good stay so
    DRAINING = "draining"  # no more requests are taken
    STOPPED = "stopped"
    END_FORCED = "end_forced"  # something hangs, and the process ends all the same


_LEVELS = {
    EventKind.WORKER_LOST: "error",
    EventKind.START_REFUSED: "error",
    EventKind.ENGINE_FAILED: "error",
    EventKind.KEYS_REFUSED: "error",
    EventKind.END_FORCED: "error",
}

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """One thing that happened."""

    id: int  # from 1, rising by one
    at: float  # Unix time, seconds
    kind: EventKind
    text: str  # for people


class EventLog:
    """A ring of events; every method may be called from any thread."""

    def __init__(self, kept: int = KEPT_EVENTS, clock: Callable[[], float] = time.time) -> None:
        self._lock = Lock()
        self._events: deque[ServiceEvent] = deque(maxlen=kept)
        self._last_id = 0
        self._news = Latch()
        self._clock = clock

    @property
    def last_id(self) -> int:
        """The id of the newest event; 0: nothing happened yet."""
        return self._last_id

    def note(self, kind: EventKind, text: str, **facts: object) -> None:
        """Something happened now; `facts` are for the log alone."""
        level = "error" if "error" in facts else _LEVELS.get(kind, "info")
        getattr(_log, level)(kind.value, text=text, **facts)
        with self._lock:
            self._last_id += 1
            self._events.append(ServiceEvent(self._last_id, self._clock(), kind, text))
            news, self._news = self._news, Latch()
        news.set()

    def after(self, last_id: int = 0) -> tuple[ServiceEvent, ...]:
        """The events that are kept and came after the one with this id, the oldest first."""
        with self._lock:
            return tuple(event for event in self._events if event.id > last_id)

    async def next_after(self, last_id: int) -> tuple[ServiceEvent, ...]:
        """As `after`, but waits until there is one."""
        while True:
            with self._lock:
                news = self._news
            if found := self.after(last_id):
                return found
            await news.wait()
