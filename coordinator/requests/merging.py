"""The events of several requests as they come, for one consumer, which is also told of silence.

The mailboxes of requests/generation.py stay what holds events back: a consumer that lags gets fewer, longer ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from numoe.coordinator.requests.events import Event, Failed, Finished
from numoe.coordinator.requests.generation import Generation


class MergedEvents:
    """Reads several generations in turn; whoever stops reading before `over` calls `cancel`."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self._generations = generations
        self._open = deque(enumerate(generations))
        self._woken = asyncio.Event()
        for generation in generations:
            generation.woken = self._woken

    @property
    def over(self) -> bool:
        """Whether every generation has told its end."""
        return not self._open

    async def next(self, silence_seconds: float) -> tuple[int, Event] | None:
        """The next event, with its generation's number; None: there was none for so long."""
        try:
            async with asyncio.timeout(silence_seconds):
                while (told := self._take()) is None:
                    await self._woken.wait()
                    self._woken.clear()
                return told
        except TimeoutError:
            return None

    def cancel(self) -> None:
        """End all that are open; harmless when repeated."""
        for generation in self._generations:
            generation.cancel()

    def _take(self) -> tuple[int, Event] | None:
        for _ in range(len(self._open)):
            number, generation = self._open.popleft()
            event = generation.mailbox.take()
            if not isinstance(event, Finished | Failed):
                self._open.append((number, generation))
            if event is not None:
                return number, event
        return None
