"""How a failure is said in HTTP: a status, and a body in JSON that names reason and message."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from numoe.coordinator.api.askers import name_call
from numoe.coordinator.api.failures import Failure, FailureKind, describe_failure
from numoe.coordinator.api.http.clients import LENGTH, receive_body
from numoe.coordinator.api.http.guard import JSON
from numoe.protos.errors import InvalidRequest

BODY_BYTES = 4096  # of an action
BODY_SECONDS = 5.0  # for it to come
RETRY_AFTER = "retry-after"

# What a client of HTTP is told beside the status, of a key that is missing or not enough: see RFC 6750.
CHALLENGES = {
    FailureKind.UNKNOWN: 'Bearer realm="numoe"',
    FailureKind.FORBIDDEN: 'Bearer realm="numoe", error="insufficient_scope"',
}

Answer = Callable[[Request], Awaitable[Response]]
Refuse = Callable[[Failure], Response]
Order = TypeVar("Order")

_log = structlog.get_logger()

STATUSES: dict[FailureKind, int] = {
    FailureKind.INVALID: 400,
    FailureKind.MISSING: 404,
    FailureKind.UNKNOWN: 401,
    FailureKind.FORBIDDEN: 403,
    FailureKind.FULL: 429,
    FailureKind.LATE: 504,
    FailureKind.CANCELLED: 499,  # as nginx logs a client that did not wait for its answer
    FailureKind.UNSUPPORTED: 409,
    FailureKind.UNAVAILABLE: 503,
    FailureKind.DAMAGED: 500,
    FailureKind.INTERNAL: 500,
}
# Where text is generated: what a client must mend, by the field that is at fault. Clients of OpenAI's API ask again
# after 409, which would not help a model that has no template.
_OF_FIELDS = {"model": 404, LENGTH: 413}
_GENERATING = STATUSES | {FailureKind.UNSUPPORTED: 400}


def json_answer(content: object, status: int = 200) -> Response:
    """Plain data as JSON."""
    return Response(msgspec.json.encode(content), status, {"cache-control": "no-store"}, JSON)


def refusal(status: int, reason: str, message: str) -> Response:
    """Why nothing is done."""
    return json_answer({"error": {"reason": reason, "message": message}}, status)


def status_of(failure: Failure) -> int:
    """The status of a failure where text is generated."""
    status = _GENERATING[failure.kind]
    return _OF_FIELDS.get(failure.field, status) if failure.kind is FailureKind.INVALID else status


def retry_after(failure: Failure) -> dict[str, str]:
    """The header that tells when to come back, if that helps."""
    return {} if failure.retry_seconds is None else {RETRY_AFTER: str(math.ceil(failure.retry_seconds))}


def challenge(failure: Failure) -> dict[str, str]:
    """The header that tells how a key is shown, where one is missing or not enough."""
    return {"www-authenticate": CHALLENGES[failure.kind]} if failure.kind in CHALLENGES else {}


def call_id(request: Request) -> str:
    """The id of a call, the same however often it is asked for."""
    if not hasattr(request.state, "call_id"):
        request.state.call_id = name_call("", request.headers.getlist)
    return str(request.state.call_id)


def failed(failure: Failure) -> Response:
    """What a client is told of a failure where no API is spoken."""
    error = {"reason": failure.reason, "message": failure.message, "field": failure.field, "incident": failure.incident}
    answer = json_answer({"error": {name: text for name, text in error.items() if text}}, STATUSES[failure.kind])
    answer.headers.update(retry_after(failure) | challenge(failure))
    return answer


def guarded(answer: Answer, refuse: Refuse = failed) -> Answer:
    """The same answer, with errors told in HTTP."""

    async def told(request: Request) -> Response:
        try:
            return await answer(request)
        except Exception as error:
            return refuse(describe_failure(error, call_id(request)))

    return told


async def read_order(request: Request, kind: type[Order]) -> Order:
    """The body of an action. Raises InvalidRequest, RequestCancelled."""
    body = await receive_body(request, BODY_BYTES, BODY_SECONDS)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("body", f"is not what this action takes: {error}") from error
