"""How long a command goes on asking a service that is full or restarting: as it says itself, within a bound."""

from __future__ import annotations

import time

from numoe.coordinator.commands.screen.terminal import err
from numoe.protos.errors import NumoeError
from numoe.protos.foreign_text import harmless

SHORTEST_PAUSE_SECONDS = 0.1  # doubled each time: a service that always says "at once" is not asked without end
LONGEST_PAUSE_SECONDS = 5.0  # of our own; the service may ask for more


class CallError(NumoeError):
    """A call that did not end well, as one line for people.

    Attributes:
        retry_seconds: after how long the service asks to be tried again; None: it does not ask, or did not answer.
        field: of the request, which is at fault; "": none.
    """

    def __init__(self, message: str, *, retry_seconds: float | None = None, field: str = "") -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds
        self.field = field


class Patience:
    """The waiting of one question, over all its calls."""

    def __init__(self, timeout_seconds: float | None, retry_seconds: float) -> None:
        """Give up `timeout_seconds` from now, and `retry_seconds` after the service could not answer first."""
        self._end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._retry_seconds = retry_seconds
        self._last_try: float | None = None
        self._pause = SHORTEST_PAUSE_SECONDS

    def timeout_seconds(self) -> float | None:
        """How long a call that begins now may take; None: for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def wait(self, failure: CallError) -> None:
        """Return when the service wants to be asked again; raise `failure` where it does not, or that is too late."""
        now = time.monotonic()
        if failure.retry_seconds is None:
            raise failure
        first = self._last_try is None
        if self._last_try is None:
            self._last_try = (
                now + self._retry_seconds if self._end is None else min(now + self._retry_seconds, self._end)
            )
        pause = max(failure.retry_seconds, self._pause)
        if now + pause > self._last_try:
            raise failure
        if first:
            err().print(harmless(f"{failure}: waiting for the service, Ctrl-C gives up"))
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        time.sleep(pause)
