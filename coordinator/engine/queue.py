"""The requests that wait for a slot, first come first served, and how long that may take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from numoe.coordinator.engine.sequence import Sequence
from numoe.coordinator.requests.generation import Generation
from numoe.protos.errors import QueueFull

SHORTEST_WAIT_SECONDS = 0.1  # told to clients that must come back: even if the estimate is 0, not at once
LONGEST_WAIT_SECONDS = 600.0
SERVICE_TIME_WEIGHT = 0.1  # of the newest request in the running mean: about the last 20 count


class RequestQueue:
    """A bounded queue of requests. Not safe for threads: the engine's lock guards it."""

    def __init__(self, length: int, slots: int) -> None:
        """`length`: requests that may wait while all `slots` are taken; free slots are so many places more."""
        self._length, self._slots = length, slots
        self._waiting: deque[Sequence] = deque()
        self._service_seconds: float | None = None  # mean time at work of requests that ended; None: none has

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def refuse_if_full(self, running: list[Sequence], now: float) -> None:
        """Raises QueueFull, which says when to come back."""
        if len(self._waiting) >= self._length + max(0, self._slots - len(running)):
            retry = max(SHORTEST_WAIT_SECONDS, self.wait_seconds(0, running, now))
            raise QueueFull(
                f"{len(self._waiting)} requests wait already, as many as may; try again in about {retry:.1f} seconds",
                retry,
            )

    def wait_seconds(self, ahead: int, running: list[Sequence], now: float) -> float:
        """Estimated wait behind `ahead` waiting requests: departures until a slot is free, times the mean between two.

        KV blocks are left out: a request that waits for them alone is told 0.
        """
        departures = len(running) + ahead + 1 - self._slots
        if departures <= 0:
            return 0.0
        service = self._service_seconds
        if service is None:  # nobody has ended yet: as long as the oldest has taken so far is a fair guess
            service = max((now - sequence.started_at for sequence in running), default=0.0)
        return min(LONGEST_WAIT_SECONDS, departures * service / self._slots)

    def note_service_time(self, seconds: float) -> None:
        """A request has ended after so long at work."""
        mean = seconds if self._service_seconds is None else self._service_seconds
        self._service_seconds = mean + SERVICE_TIME_WEIGHT * (seconds - mean)

    def append(self, sequence: Sequence) -> None:
        """Adds a request at the end; `refuse_if_full` has let it pass."""
        self._waiting.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Adds one in front that was at work before."""
        self._waiting.appendleft(sequence)

    def head(self, count: int) -> list[Sequence]:
        """The first `count` requests, or as many as there are."""
        return list(islice(self._waiting, count))

    def take_first(self) -> Sequence:
        """Takes the request that has waited longest out of the queue."""
        return self._waiting.popleft()

    def remove(self, generation: Generation) -> None:
        """Takes the request of a generation out of the queue, if it waits there."""
        for index, sequence in enumerate(self._waiting):
            if sequence.generation is generation:
                del self._waiting[index]
                return

    def remove_ended(self) -> None:
        """Takes out all that are over already."""
        if any(sequence.is_over for sequence in self._waiting):
            self._waiting = deque(sequence for sequence in self._waiting if not sequence.is_over)

    def clear(self) -> list[Sequence]:
        """Empties the queue; returns what was in it."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting
