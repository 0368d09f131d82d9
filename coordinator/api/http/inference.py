"""Answering over HTTP, in whichever protocol a client speaks: bodies in, streams of events or whole answers out.

*Guarantees*: a client that goes away has its requests cancelled at once; one that reads slowly holds nobody up, and is
told fewer, longer pieces. What fails before anything was sent ends in a status of HTTP; a stream is therefore begun
with the first sign that the prompt is run, or after PING_SECONDS of waiting, from when on it is told that it still is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from numoe.coordinator.api.answering import Answer as Answered
from numoe.coordinator.api.answering import submit_choices
from numoe.coordinator.api.askers import check_request_id, name_asker, refusals_told
from numoe.coordinator.api.failures import Failure, ToldError, describe_failure
from numoe.coordinator.api.http.answers import BODY_BYTES as ORDER_BYTES
from numoe.coordinator.api.http.answers import Answer, Refuse, call_id, challenge, json_answer, retry_after, status_of
from numoe.coordinator.api.http.clients import receive_body, while_connected
from numoe.coordinator.api.http.guard import JSON
from numoe.coordinator.api.http.places import Places
from numoe.coordinator.api.http.stream import EVENT_STREAM
from numoe.coordinator.api.served_model import ModelSource, ServedModel
from numoe.coordinator.api.telling import Call, Dialect, Teller, Told
from numoe.coordinator.requests.events import Accepted, Event, Failed
from numoe.coordinator.requests.merging import MergedEvents
from numoe.coordinator.requests.request_end import Asker, Report
from numoe.protos.errors import InvalidRequest, QueueFull

BODY_BYTES = 8 << 20
BODY_SECONDS = 20.0  # for it to come
PING_SECONDS = 15.0  # of silence, after which a stream says that it lives; proxies give up after 30 or 60
# Calls at once, of 256 connections: health checks and pages find room beside them. The engine's queue is shorter.
CALLS = 160
LONG_BODIES = 16  # of more than LONG_BYTES, held in memory at once
RETRY_SECONDS = 1.0  # told where all places are taken; an answer takes seconds

Make = Callable[[bytes, ServedModel], Coroutine[Any, Any, object]]
CarryOut = Callable[[Request, bytes, ServedModel], Coroutine[Any, Any, Response]]
Look = Callable[[Request, ServedModel], Response]


class Inference:
    """Makes the answers of the routes at which models are asked."""

    def __init__(self, source: ModelSource, report: Report) -> None:
        """`report` is told of requests that are refused; of accepted ones the engine tells."""
        self._source, self._report = source, report
        self._places = Places("calls are being answered", _come_back)
        self._long_places = Places("calls with long bodies are being answered", _come_back)

    def generating(self, path: str, dialect: Dialect) -> Answer:
        """What answers at a path where text is generated."""

        async def answer(request: Request) -> Response:
            headers = request.headers.getlist
            asker = name_asker(_client_of(request), path, call_id(request), headers)
            with refusals_told(asker, self._report):
                check_request_id("", headers)
                body = await self._receive(request)
            return await while_connected(request.receive, self._generate(asker, body, dialect))

        return _told_in(dialect, answer)

    def making(self, dialect: Dialect, make: Make) -> Answer:
        """What answers with something that is made of a body, and needs no worker."""

        async def answer(request: Request) -> Response:
            body = await self._receive(request)
            return json_answer(await while_connected(request.receive, make(body, self._source())))

        return _told_in(dialect, answer)

    def looking(self, dialect: Dialect, look: Look) -> Answer:
        """What answers with a look at the served model."""

        async def answer(request: Request) -> Response:
            return look(request, self._source())

        return _told_in(dialect, answer)

    def ordering(self, dialect: Dialect, carry_out: CarryOut) -> Answer:
        """What answers with what became of an operator's order."""

        async def answer(request: Request) -> Response:
            body = await receive_body(request, ORDER_BYTES, BODY_SECONDS)
            return await while_connected(request.receive, carry_out(request, body, self._source()))

        return _told_in(dialect, answer)

    async def _receive(self, request: Request) -> bytes:
        """The body of a call that has a place; it takes it once all is there, so that who sends nothing holds none."""
        try:
            body = await receive_body(request, BODY_BYTES, BODY_SECONDS, lambda: self._long_places.take(LONG_BODIES))
            self._places.take(CALLS)
            return body
        except QueueFull:
            self._source().engine.counts.note_rejected()
            raise

    async def _generate(self, asker: Asker, body: bytes, dialect: Dialect) -> Response:
        with refusals_told(asker, self._report):
            served = self._source()
            call = dialect.read(body, asker.request_id, served)
            answers = await _submit(call, asker, served)
        events = MergedEvents([answer.generation for answer in answers])
        try:
            telling = _Telling(dialect, call, events, call.tell(answers), asker.request_id)
            if not call.streamed:
                return Response(await telling.whole(), media_type=JSON)
            begun = await telling.begin()
        except BaseException:
            events.cancel()
            raise
        stopping = BackgroundTask(telling.cancel)  # also of a client that went while something was sent to it
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(telling.rest(begun), 200, headers, EVENT_STREAM, stopping)


class _Telling:
    """The events of one call on their way to its client."""

    def __init__(self, dialect: Dialect, call: Call, events: MergedEvents, teller: Teller, request_id: str) -> None:
        self._dialect, self._call, self._request_id = dialect, call, request_id
        self._events, self._teller = events, teller

    async def cancel(self) -> None:
        """End all requests of the call that are still open."""
        self._events.cancel()

    async def whole(self) -> bytes:
        """The answer, once there is no more to come. Raises ToldError."""
        while not self._events.over:
            self._say(await self._events.next(PING_SECONDS))
        return self._teller.begin() + self._teller.end()

    async def begin(self) -> bytes:
        """What a stream begins with, once it is time. Raises ToldError."""
        while True:
            told = await self._events.next(PING_SECONDS)
            if told is None or not isinstance(told[1], Accepted):
                return self._teller.begin() + self._say(told)

    async def rest(self, begun: bytes) -> AsyncIterator[bytes]:
        """All of a stream that began with this."""
        yield begun
        clock = asyncio.get_running_loop().time
        ping_at = clock() + PING_SECONDS
        try:
            while not self._events.over:
                if said := self._say(await self._events.next(max(0.0, ping_at - clock()))):
                    yield said
                    ping_at = clock() + PING_SECONDS
            last = self._teller.end()
        except Exception as error:
            failure = describe_failure(error, self._request_id)
            last = self._teller.fail(failure, status_of(failure))
        yield last

    def _say(self, told: tuple[int, Event] | None) -> bytes:
        """What is said of an event, or of there being none. Raises ToldError if an answer failed."""
        if told is None:
            return self._dialect.ping
        number, event = told
        if isinstance(event, Failed):
            error = self._call.in_body(event.error) if isinstance(event.error, InvalidRequest) else event.error
            raise ToldError(describe_failure(error, self._request_id))
        return self._teller.add(number, event) if isinstance(event, Told) else b""


async def _submit(call: Call, asker: Asker, served: ServedModel) -> Sequence[Answered]:
    """All requests of a call, or none."""
    asked_for, most = len(call.questions) * call.choices, served.limits.slots + served.limits.queued
    if asked_for > most:  # who came back would be told the same
        field = "n" if call.choices > 1 else "prompt"
        raise InvalidRequest(field, f"asks for {asked_for} answers at once; this service works at and queues {most}")
    answers: list[Answered] = []
    try:
        for question in call.questions:
            request = replace(
                question.request, client=asker.client, method=asker.method, trace=asker.trace, key=asker.key
            )
            asked = replace(question, request=request)
            answers += await submit_choices(asked, call.choices, served)
    except BaseException as error:
        for answer in answers:
            answer.generation.cancel()
        if isinstance(error, InvalidRequest):
            raise call.in_body(error) from error
        raise
    return answers


def _told_in(dialect: Dialect, answer: Answer) -> Answer:
    """The same answer, with failures told as the protocol does, and the id of the call."""

    async def told(request: Request) -> Response:
        try:
            response = await answer(request)
        except Exception as error:
            return refusing(dialect)(describe_failure(error, call_id(request)))
        response.headers.update(dict.fromkeys(dialect.id_headers, call_id(request)))
        return response

    return told


def refusing(dialect: Dialect) -> Refuse:
    """How a protocol tells failures."""

    def refuse(failure: Failure) -> Response:
        return refused(dialect, failure, status_of(failure))

    return refuse


def refused(dialect: Dialect, failure: Failure, status: int) -> Response:
    """What a protocol tells of a failure of a call that ends in this status."""
    response = json_answer(dialect.refusal(failure, status), status)
    response.headers.update(retry_after(failure) | challenge(failure))
    response.headers.update(dict.fromkeys(dialect.id_headers, failure.request_id))
    return response


def _come_back(told: str) -> QueueFull:
    return QueueFull(told, RETRY_SECONDS)


def _client_of(request: Request) -> str:
    return f"{request.client.host}:{request.client.port}" if request.client else ""
