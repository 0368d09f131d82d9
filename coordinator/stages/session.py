"""One host's share of all steps, between two losses: its layers of each in turn, then on to the next host.

    steps -> own group of workers -> the next host
                                          |
    answers <- with what was run here <---+

A thread runs the steps; with several under way, this host's workers run one while the next hosts run those before.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from numoe.coordinator.stages.link import StageLink, Wire
from numoe.protos.errors import NumoeError, WorkerLost
from numoe.protos.messages import NOWHERE, Step, StepResult

_log = structlog.get_logger()

CHECK_SECONDS = 0.2  # between two looks at idle workers

Hidden = NDArray[np.float32]


class StepGroup(Protocol):
    """The workers of one host; used by one thread at a time."""

    @property
    def size(self) -> int:
        """How many they are."""

    def submit(self, step: Step, hidden: Hidden | None = None) -> None: ...

    def collect(self, timeout_seconds: float) -> StepResult: ...

    def hidden(self) -> Hidden: ...

    def check(self) -> None: ...


class StageSession:
    """From the opening of all hosts to the first loss, or the end."""

    def __init__(
        self,
        group: StepGroup,
        first_layer: int,  # of this host's
        step_timeout_seconds: float,
        answered: Callable[[StepResult], None],  # by a thread of the session, in the order of steps
        lost: Callable[[WorkerLost], None],  # at most once, by a thread of the session
    ) -> None:
        self._group, self._first_layer, self._timeout = group, first_layer, step_timeout_seconds
        self._answered, self._lost = answered, lost
        self._link: StageLink | None = None
        self._steps: queue.SimpleQueue[tuple[Step, Hidden | None] | None] = queue.SimpleQueue()
        self._handed_on: deque[StepResult] = deque()  # what this host made of steps that others still run
        self._over = threading.Event()
        self._problem: WorkerLost | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._main, name="numoe-stage", daemon=True)

    def open(self, wire: Wire, hosts: tuple[str, ...], seconds: float) -> None:
        """Open the stream to the hosts after this one, if there are any, and begin. Raises WorkerLost."""
        if hosts:
            self._link = StageLink(wire, hosts, self._take, self._fail_after)
            self._link.wait_open(seconds)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it was closed."""
        return self._over.is_set()

    def run(self, step: Step, hidden: Hidden | None) -> None:
        """Run a step after those before it; `hidden`: of the hosts before, None: there are none."""
        self._steps.put((step, hidden))

    def check(self) -> None:
        """Raise WorkerLost where something of it, or of the hosts after it, was lost."""
        self._check_link()
        if self._problem is not None:
            raise self._problem

    @property
    def late(self) -> float:
        """Seconds that the next host has been silent, where that is more than it should be."""
        return 0.0 if self._link is None else self._link.late

    def close(self) -> None:
        """End, once the workers are done with the step that they run."""
        self._over.set()
        self._steps.put(None)
        if self._link is not None:
            self._link.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _main(self) -> None:
        while not self._over.is_set():
            try:
                job = self._steps.get(timeout=CHECK_SECONDS)
            except queue.Empty:
                job = None
            try:
                if job is None:
                    self._look()
                else:
                    self._run(*job)
            except WorkerLost as lost:
                self._fail(lost)
                return
            except Exception as error:  # whatever it is, this host answers no more
                if not isinstance(error, NumoeError):
                    _log.exception("stage_failed")
                self._fail(WorkerLost(f"{type(error).__name__}: {error}"))
                return

    def _look(self) -> None:
        if not self._over.is_set():
            self._group.check()
            self._check_link()

    def _run(self, step: Step, hidden: Hidden | None) -> None:
        self._group.submit(step, hidden)
        result = self._group.collect(self._timeout)
        result = replace(result, not_finite=self._place(result.not_finite))
        if self._link is None:
            self._answered(result)
            return
        self._handed_on.append(result)
        self._check_link()
        self._link.send(step, self._group.hidden())

    def _check_link(self) -> None:
        if self._link is not None:
            with suppress(WorkerLost):  # which it has told by itself
                self._link.check()

    def _place(self, not_finite: int) -> int:
        """As in the whole model, of which these are not the first layers."""
        return not_finite if not_finite <= 0 else not_finite + 2 * self._first_layer

    def _take(self, answer: StepResult) -> None:
        """What the hosts after this one made of the oldest step handed on."""
        own = self._handed_on.popleft() if self._handed_on else None
        if own is None or own.number != answer.number:
            self._fail(WorkerLost(f"the next host answered step {answer.number}, which it was not given"))
            return
        first = answer.not_finite if own.not_finite == NOWHERE else own.not_finite
        run = own.experts_run + answer.experts_run
        self._answered(replace(answer, experts_run=run, not_finite=first, seconds=own.seconds))

    def _fail_after(self, problem: WorkerLost) -> None:
        """Something of the hosts after this one was lost, whose workers are counted on from this one's."""
        self._fail(WorkerLost(str(problem), tuple(worker + self._group.size for worker in problem.workers)))

    def _fail(self, problem: WorkerLost) -> None:
        with self._lock:
            if self._problem is not None or self._over.is_set():
                return
            self._problem = problem
        self._lost(problem)
