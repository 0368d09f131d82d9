"""What was counted at past moments: a ring of samples, which rates, shares and the last quarter of an hour are made of.

A sample is taken every SAMPLE_SECONDS whether anybody watches or not, so that whoever comes sees what has been. It
costs a copy of the experts' counts (94 layers of 128 experts: 20 us, 96 kB) and some 10 us.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.state import EngineSnapshot
from numoe.coordinator.operations.snapshot import History

SAMPLE_SECONDS = 5.0
HISTORY_SECONDS = 900.0
RECENT_SECONDS, LATELY_SECONDS = 10.0, 300.0


@dataclass(frozen=True, slots=True)
class Times:
    """Some of a histogram: how many values there were, and their sum."""

    count: int
    sum: float

    def mean_since(self, before: Times) -> float | None:
        """The mean of the values that came since; None: none came."""
        return (self.sum - before.sum) / (self.count - before.count) if self.count > before.count else None


@dataclass(frozen=True, slots=True)
class Sample:
    """The counts of one moment, all of them since a start."""

    at: float  # time.monotonic()
    engine: EngineSnapshot
    first_token: Times
    between_tokens: Times
    workers: tuple[dict[str, int], ...]  # COUNTERS of protos/arena.py by worker; none while there are no workers
    hits: NDArray[np.int64]  # [L, E] since the workers started


def worker_change(now: Sample, before: Sample, worker: int) -> dict[str, int]:
    """What a worker counted since; what counts less than before was restarted, and began at zero."""
    after = now.workers[worker]
    if worker >= len(before.workers) or after["steps"] < before.workers[worker]["steps"]:
        return after
    return {name: count - before.workers[worker][name] for name, count in after.items()}


def hits_change(now: Sample, before: Sample) -> NDArray[np.int64]:  # [L, E]
    """The choices since; layers that count less than before were restarted, with their host, and began at zero."""
    change = now.hits - before.hits
    return np.where((change < 0).any(1, keepdims=True), now.hits, change)


class SampleRing:
    """The samples of the last quarter of an hour, in one thread."""

    def __init__(self) -> None:
        points = round(HISTORY_SECONDS / SAMPLE_SECONDS)
        self._samples: deque[Sample] = deque(maxlen=points + 1)
        self._hits_kept = round(LATELY_SECONDS / SAMPLE_SECONDS) + 1

    @property
    def newest(self) -> Sample:
        """The last sample."""
        return self._samples[-1]

    def add(self, sample: Sample) -> None:
        """Take in a sample; of old ones, the experts' counts are forgotten."""
        self._samples.append(sample)
        if len(self._samples) > self._hits_kept:
            old = self._samples[-self._hits_kept - 1]
            empty = np.zeros((0, 0), np.int64)
            self._samples[-self._hits_kept - 1] = Sample(
                old.at, old.engine, old.first_token, old.between_tokens, (), empty
            )

    def before(self, seconds: float, now: float) -> Sample:
        """The newest sample that is at least so old, or the oldest whose experts' counts are known."""
        kept = list(self._samples)[-self._hits_kept :]
        return next((sample for sample in reversed(kept) if now - sample.at >= seconds), kept[0])

    def history(self, unix_of: Callable[[float], float]) -> History:
        """All samples as columns; `unix_of` turns a time of theirs into Unix time."""
        pairs = list(pairwise(self._samples))
        return History(
            seconds=SAMPLE_SECONDS,
            until=round(unix_of(self.newest.at), 1),
            running=tuple(now.engine.running for _, now in pairs),
            queued=tuple(now.engine.queued for _, now in pairs),
            rejected=tuple(now.engine.rejected - before.engine.rejected for before, now in pairs),
            kv_used=tuple(short(now.engine.kv_blocks_used / max(1, now.engine.kv_blocks)) for _, now in pairs),
            prefill_rate=tuple(prefill_rate(now, before) for before, now in pairs),
            decode_rate=tuple(decode_rate(now, before) for before, now in pairs),
            first_token_seconds=_shortened(now.first_token.mean_since(before.first_token) for before, now in pairs),
            between_tokens_seconds=_shortened(
                now.between_tokens.mean_since(before.between_tokens) for before, now in pairs
            ),
        )


def prefill_rate(now: Sample, before: Sample) -> float:
    """Prompt tokens per second since."""
    return short((now.engine.prompt_tokens - before.engine.prompt_tokens) / max(now.at - before.at, 1e-9))


def decode_rate(now: Sample, before: Sample) -> float:
    """Generated tokens per second since."""
    return short((now.engine.generated_tokens - before.engine.generated_tokens) / max(now.at - before.at, 1e-9))


def short(value: float) -> float:
    """With four digits: nobody sees more, and JSON writes them all."""
    return float(f"{value:.4g}")


def _shortened(values: Iterable[float | None]) -> tuple[float | None, ...]:
    return tuple(None if value is None else short(value) for value in values)
