"""The requests that wait for a slot, and how long that may take them.

Batch requests wait for all others. Among their like clients take turns (scheduling/fair_queue.py), and those of one
client are first come first served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from numoe.coordinator.engine.scheduling.fair_queue import FairQueue
from numoe.coordinator.engine.sequence import Sequence
from numoe.coordinator.requests.events import Accepted
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
        self._first, self._batch = (_fair_queue() for _ in range(2))
        self._service_seconds: float | None = None  # mean time at work of requests that ended; None: none has

    def __len__(self) -> int:
        return len(self._first) + len(self._batch)

    def __iter__(self) -> Iterator[Sequence]:
        return chain(self._first, self._batch)

    def refuse_if_full(self, running: list[Sequence], now: float) -> None:
        """Raises QueueFull, which says when to come back."""
        if len(self) >= self._length + max(0, self._slots - len(running)):
            retry = max(SHORTEST_WAIT_SECONDS, self.wait_seconds(0, running, now))
            raise QueueFull(
                f"{len(self)} requests wait already, as many as may; try again in about {retry:.1f} seconds",
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

    def append(self, sequence: Sequence, running: list[Sequence], now: float) -> Accepted:
        """Adds a request, which `refuse_if_full` has let pass; returns what its client is told."""
        ahead = len(self) if sequence.yields else len(self._first)
        self._of(sequence).append(sequence)
        return Accepted(ahead, self.wait_seconds(ahead, running, now))

    def put_back(self, sequence: Sequence) -> None:
        """Adds one in front of its like that was at work before."""
        self._of(sequence).put_back(sequence)

    def head(self, count: int) -> list[Sequence]:
        """The next `count` requests, or as many as there are."""
        first = self._first.head(count)
        return [*first, *self._batch.head(count - len(first))]

    def take_first(self) -> Sequence:
        """Takes the next request out of the queue."""
        return (self._first if len(self._first) else self._batch).take()

    def remove(self, generation: Generation) -> None:
        """Takes the request of a generation out of the queue, if it waits there."""
        self._keep(lambda sequence: sequence.generation is not generation)

    def remove_ended(self) -> None:
        """Takes out all that are over already."""
        self._keep(lambda sequence: not sequence.is_over)

    def clear(self) -> list[Sequence]:
        """Empties the queue; returns what was in it."""
        waiting = list(self)
        self._keep(lambda sequence: False)
        return waiting

    def _of(self, sequence: Sequence) -> FairQueue[Sequence]:
        return self._batch if sequence.yields else self._first

    def _keep(self, wanted: Callable[[Sequence], bool]) -> None:
        for queue in (self._first, self._batch):
            queue.keep(wanted)


def _fair_queue() -> FairQueue[Sequence]:
    return FairQueue(lambda sequence: sequence.share_key, lambda sequence: sequence.share_tokens)
