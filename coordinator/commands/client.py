"""The command line's client of the service: sends messages, returns messages, raises one kind of error."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from numoe.protos.errors import NumoeError
from numoe.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    placement_pb2,
    placement_pb2_grpc,
)

Answer = generation_pb2.GenerateResponse | generation_pb2.ChatResponse

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # a proxy for the web does not know this machine's loopback
    ("grpc.max_receive_message_length", 64 << 20),
]


class CallError(NumoeError):
    """A call that did not end well, as one line for people."""


class Client:
    """One connection, to be used in `with`. Its calls raise CallError."""

    def __init__(self, address: str, timeout_seconds: float | None) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._placement = placement_pb2_grpc.PlacementServiceStub(self._channel)
        self._operations = operations_pb2_grpc.OperationsServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def generate(self, request: generation_pb2.GenerateRequest) -> Generator[Answer]:
        """The stream of answers; closing the iterator cancels the call."""
        return self._stream(self._stub.Generate(request, timeout=self._timeout_seconds))

    def chat(self, request: generation_pb2.ChatRequest) -> Generator[Answer]:
        """The stream of answers; closing the iterator cancels the call."""
        return self._stream(self._stub.Chat(request, timeout=self._timeout_seconds))

    def rebalance(self, request: placement_pb2.RebalanceRequest) -> Generator[placement_pb2.RebalanceResponse]:
        """The progress of the moves, now and then; closing the iterator ends them after the one that is being made."""
        return self._stream(self._placement.Rebalance(request, timeout=self._timeout_seconds))

    def placement(self) -> placement_pb2.GetPlacementResponse:
        """Where the served model lies."""
        with self._failures():
            return self._placement.GetPlacement(placement_pb2.GetPlacementRequest(), timeout=self._timeout_seconds)

    def status(self) -> operations_pb2.Status:
        """How the service is."""
        with self._failures():
            answer = self._operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=self._timeout_seconds)
        return answer.status

    def watch_status(self) -> Generator[operations_pb2.WatchStatusResponse]:
        """How the service is, every second; closing the iterator ends the call."""
        return self._stream(
            self._operations.WatchStatus(operations_pb2.WatchStatusRequest(), timeout=self._timeout_seconds)
        )

    def events(self) -> list[operations_pb2.ServiceEvent]:
        """What happened to the service."""
        with self._failures():
            answer = self._operations.ListEvents(operations_pb2.ListEventsRequest(), timeout=self._timeout_seconds)
        return list(answer.events)

    def watch_events(self) -> Generator[operations_pb2.WatchEventsResponse]:
        """What happened to the service and what happens; closing the iterator ends the call."""
        return self._stream(
            self._operations.WatchEvents(operations_pb2.WatchEventsRequest(), timeout=self._timeout_seconds)
        )

    def _stream(self, call: Any) -> Generator[Any]:
        try:
            with self._failures():
                yield from call
        finally:
            call.cancel()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise CallError(self._explain(error)) from error

    def _explain(self, error: grpc.RpcError) -> str:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAVAILABLE and _retry_seconds(error) is None:
            return f"nothing answers at {self._address}: start `numoe serve`, or name another address with --address"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the time is up: {details}"
        return f"{details} ({code.name})"


def _retry_seconds(error: grpc.RpcError) -> float | None:
    """After how long the service asks to be tried again; None: it does not ask, or no service of ours answered."""
    status = rpc_status.from_call(error)
    retry = error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToMilliseconds() / 1000)
    return None
