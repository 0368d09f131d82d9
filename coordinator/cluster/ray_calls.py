"""Calls of Ray's, which may hang where its processes died: who waits for one looks around meanwhile, and may leave."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

POLL_SECONDS = 0.1  # between two looks

Result = TypeVar("Result")
_Call = tuple[Callable[[], Any], Future[Any]]

# Threads without a call, by what they are given one through. They never end: the kernel kills what Ray started together
# with the thread that started it.
_IDLE: deque[SimpleQueue[_Call]] = deque()


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
