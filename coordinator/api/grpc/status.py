"""How a failure is said in gRPC: one status, with google.rpc details.

Guarantees: every status carries ErrorInfo (domain "numoe"), that of a generating call the request's id in RequestInfo;
INVALID_ARGUMENT names the field in BadRequest; RESOURCE_EXHAUSTED and UNAVAILABLE say in RetryInfo when to come back.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from numoe.coordinator.api.askers import REQUEST_ID
from numoe.coordinator.api.failures import Failure, FailureKind

DOMAIN = "numoe"

_CODES: dict[FailureKind, code_pb2.Code] = {
    FailureKind.INVALID: code_pb2.INVALID_ARGUMENT,
    FailureKind.MISSING: code_pb2.NOT_FOUND,
    FailureKind.UNKNOWN: code_pb2.UNAUTHENTICATED,
    FailureKind.FORBIDDEN: code_pb2.PERMISSION_DENIED,
    FailureKind.FULL: code_pb2.RESOURCE_EXHAUSTED,
    FailureKind.LATE: code_pb2.DEADLINE_EXCEEDED,
    FailureKind.CANCELLED: code_pb2.CANCELLED,
    FailureKind.UNSUPPORTED: code_pb2.FAILED_PRECONDITION,
    FailureKind.UNAVAILABLE: code_pb2.UNAVAILABLE,
    FailureKind.DAMAGED: code_pb2.DATA_LOSS,
    FailureKind.INTERNAL: code_pb2.INTERNAL,
}


def status_of(failure: Failure) -> status_pb2.Status:
    """The status a client gets."""
    status = status_pb2.Status(code=_CODES[failure.kind], message=failure.message)
    for detail in _details(failure):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def grpc_status(status: status_pb2.Status, request_id: str = "") -> grpc.Status:
    """The same in the form that ends a call; the trailing metadata say the request's id, if there is one."""
    converted: grpc.Status = rpc_status.to_status(status)
    if request_id:
        named = (*converted.trailing_metadata, (REQUEST_ID, request_id))
        converted = converted._replace(trailing_metadata=named)  # type: ignore[attr-defined]  # a named tuple
    return converted


def _details(failure: Failure) -> Iterator[Message]:
    metadata = {"incident": failure.incident} if failure.incident else {}
    yield error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=metadata)
    if failure.request_id:
        yield error_details_pb2.RequestInfo(request_id=failure.request_id)
    if failure.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=failure.field, description=failure.problem)
        yield error_details_pb2.BadRequest(field_violations=[violation])
    if failure.retry_seconds is not None:
        delay = Duration()
        delay.FromMilliseconds(round(failure.retry_seconds * 1000))
        yield error_details_pb2.RetryInfo(retry_delay=delay)
