"""How long a service that is full, starting or away is asked again: as it says itself, within a bound."""

from __future__ import annotations

import time

import grpc

from numoe.client.failures import CallFailed

SHORTEST_PAUSE_SECONDS = 0.1  # doubled each time: a service that always says "at once" is not asked without end
LONGEST_PAUSE_SECONDS = 5.0  # of our own; the service may ask for more


class Patience:
    """The waiting of one question, over all its calls."""

    def __init__(self, timeout_seconds: float | None, retry_seconds: float) -> None:
        """Give up `timeout_seconds` from now, and `retry_seconds` after the service could not answer first."""
        self._end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._retry_seconds = retry_seconds
        self._last_try: float | None = None
        self._pause = SHORTEST_PAUSE_SECONDS

    @property
    def was_tried(self) -> bool:
        """Whether there was a wait already."""
        return self._last_try is not None

    def timeout_seconds(self) -> float | None:
        """How long a call that begins now may take; None: for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def pause_seconds(self, wanted: float) -> float | None:
        """How long to wait before the next call, `wanted` at least; None: that would be too late."""
        now = time.monotonic()
        if self._last_try is None:
            last = now + self._retry_seconds
            self._last_try = last if self._end is None else min(last, self._end)
        pause = max(wanted, self._pause)
        if now + pause > self._last_try:
            return None
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return pause


def pause_after(patience: Patience, error: grpc.RpcError, *, is_under_way: bool) -> float:
    """How long to wait before a call that ended so is made again.

    Raises CallFailed: it is not to be made again, as its answer is under way, as that would be of no use, or too late.
    """
    failure = CallFailed(error)
    wanted = failure.retry_seconds
    if wanted is None and error.code() is grpc.StatusCode.UNAVAILABLE:
        wanted = 0.0  # nobody is there, or went away: perhaps to come back
    pause = None if is_under_way or wanted is None else patience.pause_seconds(wanted)
    if pause is None:
        raise failure from error
    return pause
