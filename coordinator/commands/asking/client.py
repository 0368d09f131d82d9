"""The command line's client of the service: sends messages, returns messages, raises one kind of error."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any

import grpc

from numoe.client.channels import headers_of, open_channel
from numoe.client.failures import CallFailed
from numoe.client.patience import Patience
from numoe.coordinator.access.credentials import KEY_VARIABLE, Access
from numoe.coordinator.commands.asking.patience import CallError, wait
from numoe.protos.trace_context import TRACEPARENT, TRACESTATE, read_trace_context
from numoe.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    placement_pb2,
    placement_pb2_grpc,
)

_OURS = ("UNAVAILABLE", "DATA_LOSS", "INTERNAL", "CANCELLED")

Answer = generation_pb2.GenerateResponse | generation_pb2.ChatResponse

NO_ACCESS = Access()


class Client:
    """One connection, to be used in `with`; made anew once it broke. Its calls raise CallError."""

    def __init__(
        self,
        address: str,
        timeout_seconds: float | None,
        retry_seconds: float = 0.0,
        flag: str = "--address",
        access: Access = NO_ACCESS,
    ) -> None:
        """`retry_seconds`: how long questions are asked again while the service says when; `flag` named the address."""
        self._address, self._flag = address, flag
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._access = access
        self._headers = (*headers_of(access.key), *trace_headers(os.environ))
        self._how: dict[str, Any] = {"timeout": timeout_seconds, "metadata": self._headers}
        self._connect()

    def _connect(self) -> None:
        trust = self._access.trust
        credentials = (
            None if trust is None else grpc.ssl_channel_credentials(trust.authority, trust.key, trust.certificate)
        )
        self._channel = open_channel(self._address, credentials)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._placement = placement_pb2_grpc.PlacementServiceStub(self._channel)
        self._model = model_pb2_grpc.ModelServiceStub(self._channel)
        self._operations = operations_pb2_grpc.OperationsServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def generate(self, request: generation_pb2.GenerateRequest) -> Generator[Answer]:
        """The stream of answers; closing the iterator cancels the call."""
        return self._ask(lambda timeout: self._stub.Generate(request, timeout=timeout, metadata=self._headers))

    def chat(self, request: generation_pb2.ChatRequest) -> Generator[Answer]:
        """The stream of answers; closing the iterator cancels the call."""
        return self._ask(lambda timeout: self._stub.Chat(request, timeout=timeout, metadata=self._headers))

    def model(self) -> model_pb2.Model:
        """What is served."""
        patience = Patience(self._timeout_seconds, self._retry_seconds)
        while True:
            try:
                with self._failures():
                    request = model_pb2.GetModelRequest()
                    return self._model.GetModel(
                        request, timeout=patience.timeout_seconds(), metadata=self._headers
                    ).model
            except CallError as error:
                wait(patience, error)

    def rebalance(self, request: placement_pb2.RebalanceRequest) -> Generator[placement_pb2.RebalanceResponse]:
        """The progress of the moves, now and then; closing the iterator ends them after the one that is being made."""
        return self._stream(self._placement.Rebalance(request, **self._how))

    def placement(self) -> placement_pb2.GetPlacementResponse:
        """Where the served model lies."""
        with self._failures():
            return self._placement.GetPlacement(placement_pb2.GetPlacementRequest(), **self._how)

    def expert_map(self) -> operations_pb2.WatchPlacementResponse:
        """Who holds which expert, and how often each was chosen."""
        request = operations_pb2.WatchPlacementRequest()
        with closing(self._stream(self._operations.WatchPlacement(request, **self._how))) as told:
            first: operations_pb2.WatchPlacementResponse = next(told)
            return first

    def status(self) -> operations_pb2.Status:
        """How the service is."""
        with self._failures():
            answer = self._operations.GetStatus(operations_pb2.GetStatusRequest(), **self._how)
        return answer.status

    def watch_status(self) -> Generator[operations_pb2.WatchStatusResponse]:
        """How the service is, every second; closing the iterator ends the call."""
        return self._stream(self._operations.WatchStatus(operations_pb2.WatchStatusRequest(), **self._how))

    def events(self) -> list[operations_pb2.ServiceEvent]:
        """What happened to the service."""
        with self._failures():
            answer = self._operations.ListEvents(operations_pb2.ListEventsRequest(), **self._how)
        return list(answer.events)

    def watch_events(self) -> Generator[operations_pb2.WatchEventsResponse]:
        """What happened to the service and what happens; closing the iterator ends the call."""
        return self._stream(self._operations.WatchEvents(operations_pb2.WatchEventsRequest(), **self._how))

    def profile(self, seconds: float, steps: int) -> operations_pb2.StepsProfile:
        """What the service's threads did with their time, for some seconds or steps from now on."""
        request = operations_pb2.ProfileRequest(seconds=seconds, steps=steps)
        with self._failures():
            return self._operations.Profile(request, **self._how).profile

    def _ask(self, start: Callable[[float | None], Any]) -> Generator[Answer]:
        """The messages of a call that `start` begins, anew where the service asks for that before there is any text."""
        patience = Patience(self._timeout_seconds, self._retry_seconds)
        while True:
            said = False
            try:
                for answer in self._stream(start(patience.timeout_seconds())):
                    said = said or bool(answer.delta.text or answer.delta.reasoning)
                    yield answer
                return
            except CallError as error:
                if said:
                    raise
                wait(patience, error)

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
            failure = self._explain(error)
            if error.code() is grpc.StatusCode.UNAVAILABLE and failure.retry_seconds is None:
                self._channel.close()  # left to itself it would try again after growing pauses, of up to two minutes
                self._connect()
            raise failure from error

    def _explain(self, error: grpc.RpcError) -> CallError:
        failed = CallFailed(error)
        if failed.code == "UNAVAILABLE" and failed.retry_seconds is None:
            whom = "nothing" if self._access.trust is None else "nothing that --tls-ca trusts"
            return CallError(
                f"{whom} answers at {self._address}: start `numoe serve`, or name another address with {self._flag}"
            )
        if failed.code == "UNAUTHENTICATED":
            return CallError(f"{failed}; --key-file or the variable {KEY_VARIABLE} gives it one")
        if failed.code == "DEADLINE_EXCEEDED":
            return CallError(f"the time is up: {failed.details}")
        ours = failed.code in _OURS and failed.request_id  # what an operator finds in the log by the request's id
        message = f"{failed.details} ({failed.code}, request {failed.request_id})" if ours else str(failed)
        return CallError(message, retry_seconds=failed.retry_seconds, field=failed.field)


def trace_headers(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The trace that this command belongs to, as metadata: from TRACEPARENT and TRACESTATE, as tracing tools set them.

    What is malformed there is left out.
    """
    state = environment.get(TRACESTATE.upper(), "")
    context = read_trace_context(environment.get(TRACEPARENT.upper(), ""), [state] if state else [])
    if context is None:
        return ()
    parent = (TRACEPARENT, environment[TRACEPARENT.upper()])
    return (parent, (TRACESTATE, context.state)) if context.state else (parent,)
