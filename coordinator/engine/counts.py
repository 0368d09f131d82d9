"""What the engine counts, in plain numbers: written while it works, read by anybody at any time.

A histogram here is what Prometheus means by one, without its library: to count a value costs 0.3 us, in the engine's
thread, once for each token or less.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from numoe.coordinator.requests.events import Failed, Finished, FinishReason
from numoe.coordinator.requests.request_end import name_of, outcome_of
from numoe.protos.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LogitsNotFinite,
    NumoeError,
    QueueFull,
    RequestAborted,
    RequestCancelled,
    ServiceError,
    Unavailable,
    UnsupportedModel,
    WorkerLost,
)

# Seconds, from the shortest step of a small model to the longest wait in a full queue.
WAITS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
GAPS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0)
PHASE_SECONDS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
RATES = (1.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 3000.0, 10000.0)  # tokens per second

_FAILURES: tuple[type[NumoeError], ...] = (
    RequestCancelled,
    RequestAborted,
    DeadlineExceeded,
    LogitsNotFinite,
    WorkerLost,
    Unavailable,
    ServiceError,
)
# How an accepted request may end, as `EngineCounts.ended` names it.
OUTCOMES = (*(reason.value for reason in FinishReason), *(name_of(error) for error in _FAILURES))

# How one may be refused before that, as `EngineCounts.refused` names it; others are defects.
_REFUSALS: tuple[type[NumoeError], ...] = (
    InvalidRequest,
    QueueFull,
    Unavailable,
    UnsupportedModel,
    DeadlineExceeded,
    RequestCancelled,
)
REFUSALS = tuple(name_of(error) for error in _REFUSALS)

PHASES = ("schedule", "publish", "deliver", "wait", "apply")  # of a step's round, in their order; they add up to it


@dataclass(frozen=True, slots=True)
class HistogramCounts:
    """A look at a histogram."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]  # values up to each bound and above the one before; last, those above all
    sum: float  # of the values

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Histogram:
    """Counts values by size; by one thread at a time."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def look(self) -> HistogramCounts:
        """What was counted so far."""
        return HistogramCounts(self._bounds, tuple(self._counts), self._sum)


class EngineCounts:
    """All of it. The histograms are the engine's thread's; ends and rejections may be noted by any thread."""

    def __init__(self) -> None:
        self.queue_seconds = Histogram(WAITS)  # from submit to the first chunk
        self.first_token_seconds = Histogram(WAITS)  # from submit to the first token drawn
        self.between_tokens_seconds = Histogram(GAPS)  # from a request's token to its next one
        self.prefill_rate = Histogram(RATES)  # prompt tokens per second, of each request that drew its first token
        self.decode_rate = Histogram(RATES)  # tokens per second, of each request that finished with two or more
        self.phase_seconds = {phase: Histogram(PHASE_SECONDS) for phase in PHASES}  # of each step's round
        self.tokens_run_again = 0  # as workers were lost, or blocks given back
        self.drafted_tokens = 0  # that were run before they were known, as texts seemed to repeat themselves
        self.accepted_tokens = 0  # of those, tokens of answers
        self._lock = Lock()
        self._ended: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._losses: Counter[int | None] = Counter()
        self._rejected = 0
        self._phase_began = 0.0

    @property
    def rejected(self) -> int:
        """Requests that were refused as there was no room for them."""
        return self._rejected

    @property
    def ended(self) -> dict[str, int]:
        """Requests that ended, by how: a finish reason, or the stable name of an error."""
        with self._lock:
            return dict(self._ended)

    @property
    def refused(self) -> dict[str, int]:
        """Requests that were refused before they were queued, by the stable name of the error."""
        with self._lock:
            return dict(self._refused)

    def note_refused(self, outcome: str) -> None:
        """A request was refused, for whatever reason."""
        with self._lock:
            self._refused[outcome] += 1

    @property
    def losses(self) -> dict[int | None, int]:
        """How often each worker died, by its number; None: nobody knows which it was."""
        with self._lock:
            return dict(self._losses)

    def note_lost(self, workers: tuple[int, ...]) -> None:
        """These workers died; none: nobody knows which."""
        with self._lock:
            self._losses.update(workers or (None,))

    def note_rejected(self) -> None:
        """A request found no room."""
        with self._lock:
            self._rejected += 1

    def note_end(self, event: Finished | Failed) -> None:
        """A request ended; called once for each."""
        with self._lock:
            self._ended[outcome_of(event)] += 1
            if isinstance(event, Finished) and event.timings.decode_tokens_per_second > 0:
                self.decode_rate.observe(event.timings.decode_tokens_per_second)

    def begin_round(self) -> None:
        """The engine begins to think about a step."""
        self._phase_began = time.monotonic()

    def end_phase(self, phase: str) -> None:
        """A phase of the round ended, and the next begins."""
        now = time.monotonic()
        self.phase_seconds[phase].observe(now - self._phase_began)
        self._phase_began = now
