"""How an error is told to a client, in no protocol's words; each door says it in its own.

Guarantees: what is not one of numoe's own errors becomes an internal failure with an incident id and nothing else; the
log has the rest under the same id.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from enum import Enum, auto

import structlog

from numoe.protos.errors import (
    AddressInUse,
    DeadlineExceeded,
    HostsChanged,
    HostsMissing,
    InvalidRequest,
    LogitsNotFinite,
    ModelFileError,
    ModelNotFound,
    NumoeError,
    PermissionDenied,
    PlanError,
    PromptTooLong,
    QueueFull,
    RequestAborted,
    RequestCancelled,
    RequestError,
    ServiceError,
    SetupError,
    Unauthenticated,
    Unavailable,
    UnsupportedModel,
    WorkerLost,
)
from numoe.protos.foreign_text import harmless

RETRY_SECONDS = 5.0  # restarting workers takes seconds for small models, minutes for large ones: ask now and then
# Of UTF-8. Trailers beyond 8 KiB are dropped by many proxies, and clients of gRPC take such a call for another failure;
# the message travels in them three times, once with three characters for a byte.
MESSAGE_BYTES = 600


class FailureKind(Enum):
    """What a client can do about it."""

    INVALID = auto()  # mend the request
    MISSING = auto()  # name the model that is served
    UNKNOWN = auto()  # show a key
    FORBIDDEN = auto()  # show another key
    FULL = auto()  # come back when told
    LATE = auto()  # its own deadline
    CANCELLED = auto()
    UNSUPPORTED = auto()  # ask another service
    UNAVAILABLE = auto()  # come back when told
    DAMAGED = auto()  # tell the operator: the model's weights, or what they make of this prompt
    INTERNAL = auto()  # tell the operator the incident


_KINDS: dict[type[NumoeError], FailureKind] = {  # every class of protos/errors.py, which draws the same table
    NumoeError: FailureKind.INTERNAL,
    RequestError: FailureKind.INTERNAL,
    SetupError: FailureKind.INTERNAL,
    ModelFileError: FailureKind.INTERNAL,
    AddressInUse: FailureKind.INTERNAL,
    ServiceError: FailureKind.UNAVAILABLE,
    InvalidRequest: FailureKind.INVALID,
    PromptTooLong: FailureKind.INVALID,
    ModelNotFound: FailureKind.MISSING,
    Unauthenticated: FailureKind.UNKNOWN,
    PermissionDenied: FailureKind.FORBIDDEN,
    QueueFull: FailureKind.FULL,
    DeadlineExceeded: FailureKind.LATE,
    RequestCancelled: FailureKind.CANCELLED,
    RequestAborted: FailureKind.CANCELLED,
    UnsupportedModel: FailureKind.UNSUPPORTED,
    PlanError: FailureKind.UNSUPPORTED,
    Unavailable: FailureKind.UNAVAILABLE,
    WorkerLost: FailureKind.UNAVAILABLE,
    HostsChanged: FailureKind.UNAVAILABLE,
    HostsMissing: FailureKind.UNAVAILABLE,
    LogitsNotFinite: FailureKind.DAMAGED,
}

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call did not end well."""

    kind: FailureKind
    reason: str  # the stable name of the error, see protos/errors.py
    message: str
    field: str = ""  # the field at fault, and what is wrong with it
    problem: str = ""
    prompt_tokens: int | None = None  # of a prompt that does not fit, at least
    context_tokens: int | None = None
    retry_seconds: float | None = None  # when to come back
    incident: str = ""  # under which the log has the rest
    request_id: str = ""  # of the request that failed; "": the call is none


class ToldError(Exception):
    """Ends a call whose failure was described already, so that an incident has one name however often it is told."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def describe_failure(error: Exception, request_id: str = "") -> Failure:
    """What a client is told of an error, of its request if there is one; an unexpected one is logged here alone."""
    if isinstance(error, ToldError):
        return error.failure
    kind = kind_of(type(error))
    if not isinstance(error, NumoeError) or kind is FailureKind.INTERNAL:
        return _internal(error, request_id)
    failure = Failure(kind, error.reason, _shortened(str(error)), request_id=request_id)
    match error:
        case InvalidRequest():
            if isinstance(error, PromptTooLong):
                failure = replace(failure, prompt_tokens=error.tokens, context_tokens=error.context_tokens)
            return replace(failure, field=error.field, problem=_shortened(error.problem))
        case QueueFull():
            return replace(failure, retry_seconds=error.retry_seconds)
    return replace(failure, retry_seconds=RETRY_SECONDS) if kind is FailureKind.UNAVAILABLE else failure


def kind_of(error: type[Exception]) -> FailureKind:
    """What a client can do about an error of this class; what is none of protos/errors.py is internal."""
    return _KINDS.get(error, FailureKind.INTERNAL)  # type: ignore[arg-type]  # most are no key


def _shortened(message: str) -> str:
    """At most MESSAGE_BYTES of it, in one line without control characters."""
    line = " ".join(harmless(message[: 2 * MESSAGE_BYTES], instead=" ").split())
    data = line.encode(errors="replace")
    if len(data) <= MESSAGE_BYTES and len(message) <= 2 * MESSAGE_BYTES:
        return data.decode()
    return data[: MESSAGE_BYTES - 3].decode(errors="ignore") + "..."


def _internal(error: Exception, request_id: str) -> Failure:
    incident = secrets.token_hex(6)
    _log.error("internal_error", incident=incident, request=request_id or None, exc_info=error)
    message = f"an internal error, incident {incident}: the server's log has the details"
    return Failure(FailureKind.INTERNAL, NumoeError.reason, message, incident=incident, request_id=request_id)
