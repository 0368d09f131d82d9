"""How an error is said to a client: one gRPC status, with google.rpc details, for every kind there is.

Guarantees: every status carries ErrorInfo (domain "numoe"); INVALID_ARGUMENT names the field in BadRequest;
RESOURCE_EXHAUSTED and UNAVAILABLE say in RetryInfo when to come back. What is not one of numoe's own errors becomes
INTERNAL with an incident id and nothing else; the log has the rest under the same id.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import grpc
import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from numoe.protos.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NumoeError,
    PlanError,
    QueueFull,
    RequestCancelled,
    Unavailable,
    UnsupportedModel,
    WorkerLost,
)

DOMAIN = "numoe"
RETRY_SECONDS = 5.0  # restarting workers takes seconds for small models, minutes for large ones: ask now and then
MESSAGE_CHARACTERS = 1000  # trailers beyond 8 KiB are dropped by many proxies; the message travels in them twice

_CODES: dict[type[NumoeError], code_pb2.Code] = {
    InvalidRequest: code_pb2.INVALID_ARGUMENT,
    QueueFull: code_pb2.RESOURCE_EXHAUSTED,
    DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    RequestCancelled: code_pb2.CANCELLED,
    UnsupportedModel: code_pb2.FAILED_PRECONDITION,
    PlanError: code_pb2.FAILED_PRECONDITION,
    Unavailable: code_pb2.UNAVAILABLE,
    WorkerLost: code_pb2.UNAVAILABLE,
}

_log = structlog.get_logger()


def status_of(error: Exception) -> status_pb2.Status:
    """The status a client gets for an error; what is unexpected is logged here, and only here."""
    if not isinstance(error, NumoeError) or type(error) not in _CODES:
        return _internal(error)
    message = str(error)
    if len(message) > MESSAGE_CHARACTERS:
        message = message[: MESSAGE_CHARACTERS - 3] + "..."
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    return _status(_CODES[type(error)], message, info, *_further_details(error, message))


def grpc_status(status: status_pb2.Status) -> grpc.Status:
    """The same in the form that ends a call."""
    converted: grpc.Status = rpc_status.to_status(status)
    return converted


def reason_of(status: status_pb2.Status) -> str:
    """The stable name in a status's ErrorInfo; empty where it has none."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""


def _further_details(error: NumoeError, message: str) -> Iterator[Message]:
    match error:
        case InvalidRequest():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=error.field, description=message.removeprefix(f"{error.field}: ")
            )
            yield error_details_pb2.BadRequest(field_violations=[violation])
        case QueueFull():
            yield _retry_in(error.retry_seconds)
        case Unavailable() | WorkerLost():
            yield _retry_in(RETRY_SECONDS)


def _retry_in(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(round(seconds * 1000))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _internal(error: Exception) -> status_pb2.Status:
    incident = secrets.token_hex(6)
    _log.error("internal error", incident=incident, exc_info=error)
    info = error_details_pb2.ErrorInfo(reason=NumoeError.reason, domain=DOMAIN, metadata={"incident": incident})
    return _status(code_pb2.INTERNAL, f"an internal error, incident {incident}: the server's log has the details", info)


def _status(code: code_pb2.Code, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
