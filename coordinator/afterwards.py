"""What nobody waits for, done by a thread of its own, in order: lines are written, ends of requests are told.

A log may block (a disk that is written back, a terminal that stands still), and so may not lie on the way of a step.
To hand work over takes 9 us, waking the thread included.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

MOST_WAITING = 10_000  # some 5 MB of lines; what comes while so many wait is dropped


class Afterwards:
    """A thread and the work that waits for it; every method may be called from any thread."""

    def __init__(self, name: str, most_waiting: int = MOST_WAITING) -> None:
        """The thread starts with the first work; it does not keep the process alive."""
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()  # None: the end
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._started = False

    def do(self, work: Callable[[], object]) -> bool:
        """Have it done soon; False: too much waits, and it is dropped. `work` raises nothing."""
        if self._queue.qsize() >= self._most_waiting:
            return False
        self._queue.put(work)
        if not self._started:
            self._start()
        return True

    def finish(self, seconds: float) -> bool:
        """Wait until all that was handed over is done, so long at most; whether it is."""
        done = threading.Event()
        self._queue.put(done.set)
        self._start()
        return done.wait(seconds)

    def close(self, seconds: float) -> bool:
        """As `finish`, and the thread ends; what is handed over later is not done."""
        done = self.finish(seconds)
        self._queue.put(None)
        return done

    def _start(self) -> None:
        with self._lock:
            if not self._started:
                with suppress(RuntimeError):  # no thread can be had now; whoever hands work over must not suffer for it
                    self._thread.start()
                    self._started = True

    def _main(self) -> None:
        while work := self._queue.get():
            work()
