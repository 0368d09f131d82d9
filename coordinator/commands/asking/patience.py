"""A command waits for a service that is full or restarting, and says so."""

from __future__ import annotations

import time

from numoe.client.patience import Patience
from numoe.coordinator.commands.screen.terminal import err
from numoe.protos.errors import NumoeError
from numoe.protos.foreign_text import harmless


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


def wait(patience: Patience, failure: CallError) -> None:
    """Return when the service wants to be asked again; raise `failure` where it does not, or that is too late."""
    is_first = not patience.was_tried
    pause = None if failure.retry_seconds is None else patience.pause_seconds(failure.retry_seconds)
    if pause is None:
        raise failure
    if is_first:
        err().print(harmless(f"{failure}: waiting for the service, Ctrl-C gives up"))
    time.sleep(pause)
