"""How a failure is said in HTTP: a status, and a body in JSON that names reason and message."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from numoe.coordinator.api.failures import Failure, FailureKind, describe_failure
from numoe.coordinator.api.http.guard import JSON
from numoe.protos.errors import InvalidRequest

BODY_BYTES = 4096
BODY_SECONDS = 5.0  # for it to come
GONE = 499  # as nginx logs a client that did not wait for its answer

# What a client of HTTP is told beside the status, of a key that is missing or not enough: see RFC 6750.
CHALLENGES = {
    FailureKind.UNKNOWN: 'Bearer realm="numoe"',
    FailureKind.FORBIDDEN: 'Bearer realm="numoe", error="insufficient_scope"',
}

Answer = Callable[[Request], Awaitable[Response]]
Order = TypeVar("Order")

_log = structlog.get_logger()

STATUSES: dict[FailureKind, int] = {
    FailureKind.INVALID: 400,
    FailureKind.UNKNOWN: 401,
    FailureKind.FORBIDDEN: 403,
    FailureKind.FULL: 429,
    FailureKind.LATE: 504,
    FailureKind.CANCELLED: 499,
    FailureKind.UNSUPPORTED: 409,
    FailureKind.UNAVAILABLE: 503,
    FailureKind.DAMAGED: 500,
    FailureKind.INTERNAL: 500,
}


def json_answer(content: object, status: int = 200) -> Response:
    """Plain data as JSON."""
    return Response(msgspec.json.encode(content), status, {"cache-control": "no-store"}, JSON)


def refusal(status: int, reason: str, message: str) -> Response:
    """Why nothing is done."""
    return json_answer({"error": {"reason": reason, "message": message}}, status)


def guarded(answer: Answer) -> Answer:
    """The same answer, with errors told in HTTP."""

    async def told(request: Request) -> Response:
        try:
            return await answer(request)
        except ClientDisconnect:
            return Response(status_code=GONE)  # nobody reads it
        except Exception as error:
            return failed(describe_failure(error))

    return told


def failed(failure: Failure) -> Response:
    """What a client is told of a failure."""
    error = {"reason": failure.reason, "message": failure.message, "field": failure.field, "incident": failure.incident}
    answer = json_answer({"error": {name: text for name, text in error.items() if text}}, STATUSES[failure.kind])
    if failure.kind in CHALLENGES:
        answer.headers["www-authenticate"] = CHALLENGES[failure.kind]
    if failure.retry_seconds is not None:
        answer.headers["retry-after"] = str(math.ceil(failure.retry_seconds))
    return answer


async def read_order(request: Request, kind: type[Order]) -> Order:
    """The body of an action. Raises InvalidRequest, ClientDisconnect."""
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > BODY_BYTES:
                    raise InvalidRequest("body", f"takes more than {BODY_BYTES} bytes")
    except TimeoutError as error:
        raise InvalidRequest("body", f"did not come within {BODY_SECONDS:g} s") from error
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("body", f"is not what this action takes: {error}") from error
