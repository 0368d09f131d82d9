"""Calls of Ray's, which may hang where its processes died: who waits for one looks around meanwhile, and may leave.

And its end, for which nobody may be inside a call: Ray (2.60) ends the process of whoever drops a reference to an actor
or an answer while it ends.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from numoe.protos.errors import WorkerLost

POLL_SECONDS = 0.1  # between two looks
LEAVE_SECONDS = 5.0  # for those inside calls, which look around more often

Result = TypeVar("Result")
_Call = tuple[Callable[[], Any], Future[Any]]

# Threads without a call, by what they are given one through. They never end: the kernel kills what Ray started together
# with the thread that started it.
_IDLE: deque[SimpleQueue[_Call]] = deque()


class _Users:
    """Threads that are inside of a call."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count, self._ends = 0, False

    @contextmanager
    def one(self) -> Iterator[None]:
        """A context for calls of Ray's and what they return; its end waits for that. Raises WorkerLost: it ends."""
        with self._changed:
            if self._ends:
                raise WorkerLost("Ray is being ended")
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    @contextmanager
    def none(self) -> Iterator[None]:
        """No new one, and none that was there, but for those that stay too long."""
        with self._changed:
            self._ends = True
            self._changed.wait_for(lambda: self._count == 0, LEAVE_SECONDS)
        try:
            yield
        finally:
            with self._changed:
                self._ends = False


_USERS = _Users()
inside_ray = _USERS.one


def end_ray(stop: Callable[[], None]) -> None:
    """Call what ends Ray, while nobody is inside, and no garbage is left that refers to it."""
    with _USERS.none():
        gc.collect()
        gc.disable()
        try:
            stop()
        finally:
            gc.enable()


def call_apart(call: Callable[[], Result], look: Callable[[], None]) -> Result:
    """Return what `call` does, made in another thread.

    Calls `look` now and then. An exception that it raises leaves the call behind, which may go on in its thread.
    """
    done: Future[Result] = Future()
    _idle_thread().put((call, done))
    while not wait([done], POLL_SECONDS).done:
        look()
    return done.result()


def _idle_thread() -> SimpleQueue[_Call]:
    try:
        return _IDLE.pop()
    except IndexError:
        calls: SimpleQueue[_Call] = SimpleQueue()
        threading.Thread(target=_make_calls, args=(calls,), name="numoe-ray-calls", daemon=True).start()
        return calls


def _make_calls(calls: SimpleQueue[_Call]) -> None:
    while True:
        call, done = calls.get()
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)
        del call, done  # nothing may be kept alive by a thread that waits
        _IDLE.append(calls)
