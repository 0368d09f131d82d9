"""Places for requests of one kind, so that those who take all of them leave the others' alone."""

from __future__ import annotations

import asyncio

from numoe.protos.errors import Unavailable


class Places:
    """Counts the requests that are being answered; used in the event loop that serves."""

    def __init__(self, what: str) -> None:
        """`what` they do, after a number: "pages are open"."""
        self._what = what
        self._taken: set[asyncio.Task[object]] = set()

    def take(self, most: int) -> None:
        """Take one of so many places until the task that answers has ended. Raises Unavailable: there is none."""
        if len(self._taken) >= most:
            raise Unavailable(f"{most} {self._what} already, which is the most; try again when one has ended")
        task = asyncio.current_task()
        assert task is not None, "uvicorn answers each request in a task of its own"
        self._taken.add(task)
        task.add_done_callback(self._taken.discard)
