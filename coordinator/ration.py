"""Bounds how often something is told: a flood of refused calls must not become a flood of lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock


@dataclass(slots=True)
class _Bucket:
    """Of one kind: what may still be told, and what was not."""

    left: float
    filled_at: float
    left_out: int = 0


class Ration:
    """A token bucket for each kind of thing; the kinds are few. Every method may be called from any thread."""

    def __init__(self, burst: int = 20, per_second: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`burst` at once, then so many in a second."""
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._lock = Lock()
        self._buckets: dict[Hashable, _Bucket] = {}

    def take(self, kind: Hashable) -> int | None:
        """How many were left out since the last that was told; None: leave this one out, too."""
        now = self._clock()
        with self._lock:
            bucket = self._buckets.setdefault(kind, _Bucket(self._burst, now))
            bucket.left = min(self._burst, bucket.left + (now - bucket.filled_at) * self._per_second)
            bucket.filled_at = now
            if bucket.left < 1:
                bucket.left_out += 1
                return None
            bucket.left -= 1
            left_out, bucket.left_out = bucket.left_out, 0
            return left_out

    def facts(self, kind: Hashable) -> dict[str, int] | None:
        """As `take`, as fields of a line of log: {} where nothing was left out."""
        left_out = self.take(kind)
        return None if left_out is None else {"left_out": left_out} if left_out else {}
