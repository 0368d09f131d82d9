"""Bringing lost workers back: how often it is tried, and when it is given up."""

from __future__ import annotations

import math
from collections.abc import Callable

from numoe.coordinator.engine.counts import EngineCounts
from numoe.coordinator.engine.event_log import EventKind, EventLog
from numoe.coordinator.engine.executor import StepExecutor
from numoe.protos.errors import HostsChanged, HostsMissing, ServiceError, SetupError, WorkerLost

MOST_RESTARTS = 3  # in a row, no step between: what is lost once more is broken, not unlucky
FORGET_SECONDS = 300.0  # of health, after which a loss has nothing to do with the one before


class Restarts:
    """All restarts of one engine's workers; used by its thread alone, but for `total`."""

    def __init__(self, executor: StepExecutor, counts: EngineCounts, clock: Callable[[], float]) -> None:
        """`clock`, in seconds, tells how long ago workers were lost."""
        self.total = 0
        self._executor, self._counts, self._clock = executor, counts, clock
        self._in_row = 0
        self._restarted_at = -math.inf

    def note_step(self) -> None:
        """A step was completed: what was lost before has nothing to do with what may be lost now."""
        self._in_row = 0

    def note_lost(self, lost: WorkerLost, events: EventLog) -> None:
        """Workers were lost while they served, or have to end."""
        if isinstance(lost, HostsChanged):
            events.note(EventKind.HOSTS_CHANGING, str(lost))
            return
        events.note(EventKind.WORKER_LOST, str(lost), workers=list(lost.workers))
        self._counts.note_lost(lost.workers)
        if self._clock() - self._restarted_at >= FORGET_SECONDS:
            self._in_row = 0

    def run(
        self,
        lost: WorkerLost,
        events: EventLog,
        wanted: Callable[[], bool],
        look: Callable[[], None],
        refuse: Callable[[ServiceError], None],
    ) -> None:
        """Restart the workers until they are ready; they are `wanted` as long as somebody needs them.

        Calls `look` now and then; an exception that it raises ends the attempts. While hosts are missing it has all
        requests refused, and tries on.

        Raises:
            WorkerLost: nobody needs them.
            ServiceError: it was tried often enough.
            SetupError: they can never be ready again.
        """
        missing = ""
        while self._in_row < MOST_RESTARTS:
            if not wanted():
                raise lost
            self._in_row += 1
            if not missing:
                events.note(EventKind.WORKERS_RESTARTING, f"attempt {self._in_row} of {MOST_RESTARTS}")
            try:
                self._executor.restart(look)
            except HostsMissing as too_few:
                self._in_row -= 1
                if str(too_few) != missing:
                    missing = str(too_few)
                    events.note(EventKind.START_REFUSED, missing, workers=[])
                refuse(too_few)
            except WorkerLost as again:
                look()
                events.note(EventKind.START_REFUSED, str(again), workers=list(again.workers))
                self._counts.note_lost(again.workers)
                lost = WorkerLost(str(again), again.workers)  # without its traceback: that keeps the lost group's arena
            except SetupError as refused:
                events.note(EventKind.START_REFUSED, str(refused), workers=[])
                raise
            else:
                self.total += 1
                self._restarted_at = self._clock()
                return
        raise ServiceError(
            f"{MOST_RESTARTS} restarts of the workers did not help, no step was completed after them; at last: {lost}"
        )
