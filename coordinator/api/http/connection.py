"""A connection of the HTTP door: uvicorn's, but nobody holds it by saying little or reading nothing.

*Guarantees*: at most CONNECTIONS are open. One that waits for its client, for the rest of what it asks or to read what
it was told, gives way to a new one where there are as many: one of the address that holds the most, of these the
longest waiting. Of those that are not encrypted yet as many may be, and the oldest gives way. So whoever asks at once
is answered, whatever others hold, and a crowd displaces itself before anybody else. After CLIENT_SECONDS of waiting it
ends in any case, or IDLE_SECONDS where it was answered and nothing more is asked. Nonsense ends it without a word in
the log.

*Rejected*: uvicorn's limit_concurrency, which answers everybody with 503 while 256 connections say nothing; it has no
limit on how long they may say nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 256
CLIENT_SECONDS = 20.0  # for the head of a request to be complete, and for what was written to be read

# Between two requests: longer than clients and proxies keep a connection (5 and 60 s), so that these close it, and not
# we in the moment in which they ask.
IDLE_SECONDS = 75


class Handshakes:
    """Connections that are about to be encrypted, of one server."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Task[object], asyncio.TimerHandle] = {}

    def begin(self) -> None:
        """One more; to be called in the task in which asyncio accepts it, and which ends with the handshake."""
        task = asyncio.current_task()
        assert task is not None, "asyncio accepts each connection in a task of its own"
        self._open[task] = asyncio.get_running_loop().call_later(CLIENT_SECONDS, task.cancel)
        task.add_done_callback(self._end)
        if len(self._open) > CONNECTIONS:
            next(iter(self._open)).cancel()

    def _end(self, task: asyncio.Task[object]) -> None:
        self._open.pop(task).cancel()


class Connection(H11Protocol):
    """Inherits, as uvicorn gives no other way to be told what happens to a connection."""

    def __init__(self, *given: Any, handshakes: Handshakes, **more: Any) -> None:
        super().__init__(*given, **more)
        handshakes.begin()
        self._is_over = False
        self._is_idle = False  # it was answered, and nothing has come since
        self._waits_since = 0.0
        self._giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wait_for_client(CLIENT_SECONDS)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        if self._giving_up is not None:
            self._giving_up.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_idle:
            self._is_idle = False
            self._wait_for_client(CLIENT_SECONDS)
        super().data_received(data)

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except h11.LocalProtocolError:  # what came is nonsense, and an answer has begun that cannot say so any more
            self._give_up()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        is_asked_more = self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        self._is_idle = not (is_asked_more or self.flow.write_paused)
        self._wait_for_client(IDLE_SECONDS if self._is_idle else CLIENT_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_client(CLIENT_SECONDS)

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # as above, in this very moment
            self._give_up()

    @property
    def _is_waiting(self) -> bool:
        """Whether it is the client's turn, but for the rest of a body, whose time inference.py limits."""
        is_asked = self.cycle is not None and not self.cycle.response_complete
        return self.transport.is_closing() or self.flow.write_paused or not is_asked

    @property
    def _may_give_way(self) -> bool:
        return self._is_waiting or self.conn.their_state is h11.SEND_BODY

    @property
    def _host(self) -> str:
        """The client's address, without its port."""
        return self.client[0] if self.client else ""

    def _wait_for_client(self, seconds: float) -> None:
        """It is the client's turn from now on, unless it has asked for more already."""
        self._waits_since = self.loop.time()
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._giving_up = self.loop.call_later(seconds, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        if self._is_waiting:
            self._give_up()

    def _give_up(self) -> None:
        self._is_over = True
        self.transport.abort()

    def _make_room(self) -> None:
        here = [one for one in self.connections if isinstance(one, Connection) and not one._is_over]
        if len(here) > CONNECTIONS:
            held = Counter(one._host for one in here)
            waiting = (one for one in here if one is not self and one._may_give_way)
            min(waiting, key=lambda one: (-held[one._host], one._waits_since), default=self)._give_up()
