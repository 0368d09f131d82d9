"""The way of events from the engine's thread to the client's coroutine.

        engine thread                                 event loop
    put_progress, put_delta, put_terminal  -->  Mailbox  -->  async for event in Generation
              wake_consumers --call_soon_threadsafe-->  (only if it waits)

The mailbox never blocks the engine and holds at most one event of each kind: a consumer that lags gets fewer, longer
Deltas, of MOST_TOKENS at most, and only the latest progress. Whoever puts the terminal event first (the engine, or
`cancel`) ends the request; everything put after it is dropped.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable
from types import TracebackType

from numoe.coordinator.requests.events import (
    Accepted,
    Delta,
    Event,
    Failed,
    Finished,
    PromptProgress,
    PromptTokens,
    Resumed,
)
from numoe.protos.errors import DeadlineExceeded, RequestAborted, RequestCancelled, RequestError, ServiceError
from numoe.protos.messages import Draw

MOST_TOKENS = 4096  # of one event: with 20 alternatives each 1 MB; clients of gRPC take messages of 4, if not told more
CLOCK_SECONDS = 0.01  # by which a protocol's clock may be ahead of ours

OnEnd = Callable[[Finished | Failed], None]


def _ignore(event: Finished | Failed) -> None:
    """Nobody wants to know of the end."""


class Mailbox:
    """Events of one request on their way; every method may be called from any thread."""

    __slots__ = (
        "_accepted",
        "_draws",
        "_lock",
        "_on_end",
        "_progress",
        "_prompt",
        "_resumed",
        "_terminal",
        "_text",
        "_waiting",
        "closed",
    )

    def __init__(self, on_end: OnEnd = _ignore) -> None:
        """`on_end` is told the terminal event, once, by whichever thread put it."""
        self._on_end = on_end
        self._lock = threading.Lock()
        self._accepted: Accepted | None = None
        self._progress: PromptProgress | None = None
        self._resumed: Resumed | None = None
        self._text: list[str] = []
        self._draws: list[Draw] = []
        self._prompt: list[Draw] = []
        self._terminal: Finished | Failed | None = None
        self._waiting = False
        self.closed = False  # a terminal event was put

    def put_accepted(self, event: Accepted) -> None:
        with self._lock:
            if not self.closed:
                self._accepted = event

    def put_progress(self, done: int, total: int) -> None:
        with self._lock:
            if not self.closed:
                self._progress = PromptProgress(done, total)

    def put_resumed(self, event: Resumed) -> None:
        with self._lock:
            if not self.closed:
                before = self._resumed or Resumed("", 0.0, 0)
                self._resumed = Resumed(event.reason, before.seconds + event.seconds, before.tokens + event.tokens)

    def put_prompt_tokens(self, draws: list[Draw]) -> None:
        with self._lock:
            if not self.closed:
                self._prompt += draws

    def put_delta(self, text: str, draw: Draw) -> None:
        with self._lock:
            if not self.closed:
                self._text.append(text)
                self._draws.append(draw)

    def put_terminal(self, event: Finished | Failed) -> bool:
        """Whether it is the first, and therefore the request's end."""
        with self._lock:
            if self.closed:
                return False
            self._terminal = event
            self.closed = True
        on_end, self._on_end = self._on_end, _ignore  # what it holds on to is not held on to after the end
        on_end(event)
        return True

    def take(self) -> Event | None:
        """The next event; after None the consumer waits, and `consumer_waits` says so once."""
        with self._lock:
            event: Event | None
            if self._accepted is not None:
                event, self._accepted = self._accepted, None
            elif self._progress is not None:
                event, self._progress = self._progress, None
            elif self._resumed is not None:
                event, self._resumed = self._resumed, None
            elif self._prompt:
                event, self._prompt = PromptTokens(tuple(self._prompt[:MOST_TOKENS])), self._prompt[MOST_TOKENS:]
            elif self._draws:
                told = ((draw.token_id, draw.logprob, draw.alternatives) for draw in self._draws[:MOST_TOKENS])
                event = Delta("".join(self._text[:MOST_TOKENS]), *zip(*told, strict=True))
                self._text, self._draws = self._text[MOST_TOKENS:], self._draws[MOST_TOKENS:]
            else:
                event, self._terminal = self._terminal, None
            self._waiting = event is None
            return event

    def consumer_waits(self) -> bool:
        with self._lock:
            waiting, self._waiting = self._waiting, False
            return waiting


class Generation:
    """One request's events, for one consumer: Accepted first, exactly one terminal event last, then the end.

    Whoever stops reading before the terminal event calls `cancel`, or uses `async with`, which does.
    """

    def __init__(
        self,
        request_id: str,
        loop: asyncio.AbstractEventLoop,
        on_cancel: Callable[[Generation], None],
        on_end: OnEnd = _ignore,
        deadline: float | None = None,
    ) -> None:
        """`deadline` of the client, in time.monotonic(): who goes then did not cancel."""
        self.request_id = request_id
        self.mailbox = Mailbox(on_end)
        self.loop = loop
        self.woken = asyncio.Event()
        self.stopping = False  # whether the consumer has all that it wants
        self._on_cancel = on_cancel
        self._deadline = math.inf if deadline is None else deadline
        self._over = False

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        while (event := self.mailbox.take()) is None:
            await self.woken.wait()
            self.woken.clear()
        self._over = isinstance(event, Finished | Failed)
        return event

    def cancel(self) -> None:
        """Ends the request with RequestCancelled, from any thread; slot and blocks are free within one step.

        From the client's deadline on with DeadlineExceeded: its call is ended by the protocol, maybe before we look.
        """
        if time.monotonic() < self._deadline - CLOCK_SECONDS:
            self._end(RequestCancelled("the client cancelled the request"))
        else:
            self._end(DeadlineExceeded("the client's deadline passed"))

    def stop(self) -> None:
        """Ends the request well, as it is all that its client wants: with Finished, at the next token."""
        self.stopping = True

    def abort(self) -> bool:
        """As `cancel`, but with RequestAborted; returns whether the request was open until now."""
        return self._end(RequestAborted("an operator aborted the request"))

    def _end(self, why: RequestError) -> bool:
        ended = self.mailbox.put_terminal(Failed(why))
        if ended:
            self._on_cancel(self)
            wake_consumers([self])
        return ended

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def wake_consumers(generations: Iterable[Generation]) -> None:
    """Wakes those that wait, with one call into each event loop: such a call costs as much as ten Deltas."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Generation]] = {}
    for generation in generations:
        if generation.mailbox.consumer_waits():
            by_loop.setdefault(generation.loop, []).append(generation)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake, waiting)
        except RuntimeError:  # the loop is closed, so nobody will ever read these
            for generation in waiting:
                generation.mailbox.put_terminal(Failed(RequestCancelled("the client's event loop is closed")))


def fail_all(generations: Collection[Generation], error: ServiceError) -> None:
    """Ends requests that nobody works at any more, by any thread."""
    for generation in generations:
        # One exception each: raised in several tasks, a shared one would gather all their tracebacks.
        generation.mailbox.put_terminal(Failed(type(error)(str(error))))
    wake_consumers(generations)


def _wake(generations: list[Generation]) -> None:
    for generation in generations:
        generation.woken.set()
