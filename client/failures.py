"""A call that did not end well, as the service explains it in google.rpc details."""

from __future__ import annotations

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class CallFailed(Exception):
    """The service refused a request or could not go on with it, or there is none.

    Attributes:
        code: the name of gRPC's status.
        details: what the service says, for people.
        reason: the stable name of the cause, as in numoe.v1's errors; "": the service said nothing.
        field: of the request, which is at fault; "": none.
        retry_seconds: after how long the service asks to be tried again; None: it does not.
        request_id: under which operators find the request; "": there was none.
    """

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: str = error.code().name
        self.details: str = error.details() or ""
        super().__init__(f"{self.details} ({self.code})")
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry, named = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
        self.reason = info.reason if _unpack(error, info) else ""
        self.field = bad.field_violations[0].field if _unpack(error, bad) and bad.field_violations else ""
        told = _unpack(error, retry)
        self.retry_seconds: float | None = retry.retry_delay.ToMilliseconds() / 1000 if told else None
        self.request_id = named.request_id if _unpack(error, named) else ""


def _unpack(error: grpc.RpcError, detail: Message) -> bool:
    """Fill `detail` with the google.rpc detail of its kind; whether the service sent one."""
    status = rpc_status.from_call(error)
    return any(packed.Unpack(detail) for packed in (status.details if status else ()))
