"""Waits for work in other threads without being held by it: a signal, or the end of patience, leaves it behind.

Reading from a network cannot be interrupted. So it is done in threads that end with the process, while the caller looks
ten times a second whether it shall go on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.1


class Stop:
    """Whether work in other threads is still wanted; it may wait for the opposite."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """It is not any more."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether it is not."""
        return self._event.is_set()

    def rest(self, seconds: float) -> bool:
        """Wait for so long at most; returns whether the work is not wanted any more."""
        return self._event.wait(seconds)


def call(work: Callable[[], T], poll: Callable[[], None]) -> T:
    """What `work` returns or raises. `poll` is called meanwhile, and what it raises ends the waiting."""
    return call_all([work], 1, poll)[0]


def call_all(works: Sequence[Callable[[], T]], at_once: int, poll: Callable[[], None]) -> list[T]:
    """What each of `works` returns; the first that raises ends the waiting, as in `call`."""
    todo: queue.SimpleQueue[tuple[int, Callable[[], T]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()
    for numbered in enumerate(works):
        todo.put(numbered)

    def work_on() -> None:
        while True:
            try:
                number, work = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, work(), None))
            except BaseException as error:
                done.put((number, None, error))
                return

    for _ in range(min(at_once, len(works))):
        threading.Thread(target=work_on, daemon=True, name="hub").start()
    results: dict[int, T] = {}
    while len(results) < len(works):
        try:
            number, result, error = done.get(timeout=POLL_SECONDS)
        except queue.Empty:
            poll()
            continue
        if error is not None:
            raise error
        results[number] = result  # type: ignore[assignment]
        poll()
    return [results[number] for number in range(len(works))]
