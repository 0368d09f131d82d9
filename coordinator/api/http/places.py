"""Places for requests of one kind, so that those who take all of them leave the others' alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from numoe.protos.errors import NumoeError, Unavailable


class Places:
    """Counts the requests that are being answered; used in the event loop that serves."""

    def __init__(self, what: str, error: Callable[[str], NumoeError] = Unavailable) -> None:
        """`what` they do, after a number: "pages are open"; `error` is raised where there is no place."""
        self._what, self._error = what, error
        self._taken: set[asyncio.Task[object]] = set()

    def take(self, most: int) -> None:
        """Take one of so many places until the task that answers has ended; raises the error if there is none."""
        if len(self._taken) >= most:
            raise self._error(f"{most} {self._what} already, which is the most; try again when one has ended")
        task = asyncio.current_task()
        assert task is not None, "uvicorn answers each request in a task of its own"
        self._taken.add(task)
        task.add_done_callback(self._taken.discard)
