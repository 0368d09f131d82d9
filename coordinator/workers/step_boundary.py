"""Lets other threads change what steps read, at a moment when none is running."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock

from numoe.protos.errors import ServiceError


class StepBoundary:
    """`begin` and `end` frame each step, in the engine's thread; `run` may be called from any other."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running = False
        self._waiting: list[tuple[Callable[[], None], Event]] = []

    def begin(self) -> None:
        """A step is about to be published."""
        with self._lock:
            self._running = True

    def end(self) -> None:
        """It is done or lost."""
        with self._lock:
            self._running = False
            for change, done in self._waiting:
                change()
                done.set()
            self._waiting.clear()

    def run(self, change: Callable[[], None], seconds: float) -> None:
        """Make a short change that cannot fail, at once or after the step that is running; returns when it is made.

        Raises:
            ServiceError: the step did not end within `seconds`; the change is not made.
        """
        with self._lock:
            if not self._running:
                change()
                return
            waiting = (change, Event())
            self._waiting.append(waiting)
        if not waiting[1].wait(seconds):
            with self._lock:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
                    raise ServiceError(f"a step took more than {seconds:.0f} s: nothing was changed")
