"""What surrounds every call of ours: errors become a status, and a call leaves one line in the log.

The line never holds what was asked or answered. Of generating calls the log tells as requests, see docs/log.md; of
others at most so many lines a second, with the number of those left out. Bytes that are no message reach a call as the
error that says so: gRPC itself would answer UNKNOWN, and log a traceback for each. It logs one, too, for an answer to a
call whose end it hears of only then: nobody waits for that answer, and the traceback is left out; so is the one for a
header that is no UTF-8, with the header in it, which may be a key.

Whoever asks shows his key before anything of his is read (roles.py); what is refused is logged as a call, whatever it
would have been. A message then has MESSAGE_SECONDS to come, and gives way to others where more than MOST_RECEIVED come
at once, the oldest first: gRPC itself would wait for ever, each time with up to the size of a message in memory, and
leave a call unanswered that ends without one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from traceback import clear_frames
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from grpc.aio import ServerInterceptor, ServicerContext

from numoe.coordinator.access.key_ring import Headers, KeyRing, asking_key
from numoe.coordinator.api.failures import describe_failure
from numoe.coordinator.api.grpc.roles import EVERY_SERVICE, LIVENESS, ROLES
from numoe.coordinator.api.grpc.status import grpc_status, status_of
from numoe.coordinator.ration import Ration
from numoe.protos.errors import InvalidRequest, PermissionDenied, RequestError

PACKAGES = ("/numoe.v1.", "/inference.")
GENERATING = (
    "GenerationService/Generate",
    "GenerationService/Chat",
    "GRPCInferenceService/ModelInfer",
    "GRPCInferenceService/ModelStreamInfer",
)

MESSAGE_SECONDS = 20.0
MOST_RECEIVED = 128  # at once

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # the class itself takes no arguments
Context = ServicerContext[Any, Any]

_log = structlog.get_logger()


class CallInterceptor(ServerInterceptor):
    """Wraps the handlers of calls for clients; those of health and reflection only against strangers and nonsense."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._ration = Ration()
        self._received: dict[asyncio.Timeout, None] = {}  # of messages that are coming, the oldest first
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_clients_fault)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        codec = (_reading(handler.request_deserializer), handler.response_serializer)
        try:
            self._admit(handler_call_details)
        except RequestError as refusal:
            if method not in LIVENESS:
                return grpc.stream_stream_rpc_method_handler(self._refusing(method, refusal))
            handler = _of_every_service(handler, self._refusing(method, refusal))
        ours = method.startswith(PACKAGES)
        if handler.stream_stream is not None:
            exchange = self._exchanging(method, handler.stream_stream) if ours else _all_readable(handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(exchange, *codec)
        if handler.unary_stream is not None:
            stream = self._streaming(method, handler.unary_stream) if ours else self._readable(handler.unary_stream)
            return grpc.stream_stream_rpc_method_handler(stream, *codec)
        call = self._unary(method, handler.unary_unary) if ours else self._readable(handler.unary_unary)
        return grpc.stream_unary_rpc_method_handler(call, *codec)

    def _admit(self, called: grpc.HandlerCallDetails) -> None:
        """Raises RequestError: no key that is good for this call is shown."""
        if self._keys.asks:
            needed = ROLES.get(called.method)
            if needed is None:
                raise PermissionDenied("no role is set down for this method, so that no key is good for it")
            self._keys.admit(needed, _headers(called.invocation_metadata))

    def _refusing(self, method: str, refusal: RequestError) -> Any:
        """Answers whatever is asked, unread, with the refusal."""

        async def call(_: Any, context: Context) -> None:
            async with self._watched(method, context, is_refused=True):
                raise refusal

        return call

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> Any:
            async with self._watched(method, context):
                return await behaviour(await self._receive(requests), context)

        return call

    def _streaming(self, method: str, behaviour: Any) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            async with self._watched(method, context):
                async for response in behaviour(await self._receive(requests), context):
                    yield response

        return call

    def _readable(self, behaviour: Any) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> Any:
            try:
                request = await self._receive(requests)
            except InvalidRequest as error:
                await _refuse(error, context)
            return await behaviour(request, context)

        return call

    async def _receive(self, requests: AsyncIterator[Any]) -> Any:
        """The message of a call that has one. Raises InvalidRequest: it is none, or did not come."""
        limit = asyncio.timeout(MESSAGE_SECONDS)
        try:
            async with limit:
                self._received[limit] = None
                if len(self._received) > MOST_RECEIVED:
                    oldest = next(iter(self._received))
                    del self._received[oldest]
                    oldest.reschedule(0.0)
                request = await anext(requests, None)
        except TimeoutError as error:
            problem = f"did not come within {MESSAGE_SECONDS:g} s, or while {MOST_RECEIVED} others were coming"
            raise InvalidRequest("message", problem) from error
        finally:
            self._received.pop(limit, None)
        if request is None:
            raise InvalidRequest("message", "is missing; expected a whole one before the call's end")
        return _message(request)

    def _exchanging(self, method: str, behaviour: Any) -> Any:
        async def messages(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for request in requests:
                yield _message(request)

        async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            async with self._watched(method, context):
                async for response in behaviour(messages(requests), context):
                    yield response

        return call

    @asynccontextmanager
    async def _watched(self, method: str, context: Context, *, is_refused: bool = False) -> AsyncIterator[None]:
        started, client = time.monotonic(), context.peer()  # asked for after the call's end, it crashes the process
        code = "CANCELLED"  # what is left if neither the body's end nor an error ended the call
        try:
            with self._keys.ending_told():
                yield
            code = "OK"
        except Exception as error:
            failure = describe_failure(error)
            status = status_of(failure)
            code = code_pb2.Code.Name(status.code)
            _clear_frames(error)
            await context.abort_with_status(grpc_status(status, failure.request_id))
        finally:
            called = _name_of(method)
            left_out = None if called in GENERATING and not is_refused else self._ration.facts((called, code))
            if left_out is not None:
                seconds = round(time.monotonic() - started, 6)
                key = {"key": asking_key()} if asking_key() else {}
                _log.info("call", method=called, code=code, seconds=seconds, client=client, **key, **left_out)


def _name_of(method: str) -> str:
    """As the log and operators know it."""
    package = next((package for package in PACKAGES if method.startswith(package)), "")
    return method.removeprefix(package)


def _of_every_service(handler: Any, refuse: Any) -> Any:
    """A handler of health, which to strangers tells of all services together only."""
    kind = "unary_stream" if handler.response_streaming else "unary_unary"
    behaviour = getattr(handler, kind)

    async def call(request: Any, context: Context) -> Any:
        if request.service != EVERY_SERVICE:
            await refuse(request, context)
        return await behaviour(request, context)

    return handler._replace(**{kind: call})


def _is_no_clients_fault(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError | UnicodeDecodeError))


def _reading(deserialize: Any) -> Any:
    """Returns the error instead of the message: what is raised there, only gRPC tells."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return InvalidRequest("message", f"its {len(data)} bytes are not what the method takes: {error}")

    return read


def _message(request: Any) -> Any:
    if isinstance(request, InvalidRequest):
        raise request
    return request


async def _refuse(error: InvalidRequest, context: Context) -> None:
    await context.abort_with_status(grpc_status(status_of(describe_failure(error)), ""))


def _all_readable(behaviour: Any) -> Any:
    async def messages(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for request in requests:
            if isinstance(request, InvalidRequest):
                await _refuse(request, context)
            yield request

    async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for response in behaviour(messages(requests, context), context):
            yield response

    return call


def headers_of(context: Context) -> Headers:
    """The values of a header of the call, by its name."""
    return _headers(context.invocation_metadata())


def _headers(metadata: Iterable[tuple[str, str | bytes]] | None) -> Headers:
    told = [(name, value) for name, value in metadata or () if isinstance(value, str)]
    return lambda name: [value for key, value in told if key == name]


def _clear_frames(error: BaseException | None) -> None:
    """gRPC keeps the error of an aborted call until the next call comes; what its frames hold must not wait for that.

    The arena of a lost group, for one, in whose workers experts were being moved.
    """
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
