"""Which workers neither compute nor wait: their threads are stopped, starved of processor time, or loop in a kernel.

Every computing thread counts its signs of life in the arena (kernels/threads/profile.py): with each item of work, and
ten times a second while it waits, in a step and between steps. A count that does not rise is a thread that is stuck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from numoe.protos.profile import BEATS

NOTICED_SECONDS = 0.4  # without a sign: four looks of a wait
TOLD_SECONDS = 2.0  # on a machine that is very busy a thread may get no turn for half a second, which is no news
MOST_BETWEEN_SECONDS = 1.0  # counted between two looks: more is a pause of our own, in which nobody looked

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stuck:
    """A worker one of whose threads gives no sign."""

    worker: int
    thread: int
    seconds: float  # since its last sign, as far as anybody looked


class Heartbeats:
    """Looks at the signs of a group whose threads run; used by one thread, but for `stuck`."""

    def __init__(self, states: Sequence[NDArray[np.int64]], now: float) -> None:
        """`states` [workers] of [threads, STATE_WORDS], which the workers write; `now` in time.monotonic()."""
        self.stuck: frozenset[int] = frozenset()  # workers, at the last look
        self._states = states
        self._counts = [state[:, BEATS].copy() for state in states]
        self._silent = [np.zeros(len(state)) for state in states]  # seconds
        self._looked_at = now
        self._told: set[int] = set()

    def look(self, now: float) -> Stuck | None:
        """The thread that has been silent the longest, if any is stuck; the log is told who is, and who moves again."""
        passed, self._looked_at = min(now - self._looked_at, MOST_BETWEEN_SECONDS), now
        found = []
        for worker, (state, counts, silent) in enumerate(zip(self._states, self._counts, self._silent, strict=True)):
            beats = state[:, BEATS].copy()
            silent += passed
            silent[beats != counts] = 0.0
            counts[:] = beats
            thread = int(silent.argmax())
            found.append(Stuck(worker, thread, float(silent[thread])))
        self.stuck = frozenset(one.worker for one in found if one.seconds >= NOTICED_SECONDS)
        for one in found:
            self._tell(one)
        worst = max(found, key=lambda one: one.seconds)
        return worst if worst.worker in self.stuck else None

    def _tell(self, one: Stuck) -> None:
        if one.worker in self._told and one.worker not in self.stuck:
            self._told.remove(one.worker)
            _log.info("worker_moves_again", worker=one.worker)
        elif one.worker not in self._told and one.seconds >= TOLD_SECONDS:
            self._told.add(one.worker)
            _log.warning("worker_stuck", worker=one.worker, thread=one.thread, seconds=round(one.seconds, 1))
