"""A client of the service for asyncio: client.py, with await."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any

import grpc

from numoe.client.channels import headers_of, open_aio_channel, refuse_to_tell
from numoe.client.client import AS_SERVED
from numoe.client.events import Delta, Event, read_event
from numoe.client.models import Model
from numoe.client.patience import Patience, pause_after
from numoe.client.questions import Conversation, Settings, chat_request, generate_request
from numoe.protos.plain_data import read_message
from numoe.v1.generation_pb2 import DetokenizeRequest, TokenizeRequest
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from numoe.v1.model_pb2 import GetModelRequest
from numoe.v1.model_pb2_grpc import ModelServiceStub


class AsyncClient:
    """What Client is, for the tasks of one event loop; to be used in `async with`, or closed."""

    def __init__(
        self,
        address: str,
        *,
        key: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        insecure: bool = False,
        timeout_seconds: float | None = None,
        retry_seconds: float = 0.0,
    ) -> None:
        """As that of Client."""
        if not insecure:
            refuse_to_tell(key, address, credentials)
        self._channel = open_aio_channel(address, credentials)
        self._generation, self._model = GenerationServiceStub(self._channel), ModelServiceStub(self._channel)
        self._headers = headers_of(key)
        self._timeout_seconds, self._retry_seconds = timeout_seconds, retry_seconds

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is open, and the connection."""
        await self._channel.close()

    def generate(
        self, prompt: str | Sequence[int], settings: Settings = AS_SERVED, *, parse_special: bool = False
    ) -> AsyncGenerator[Event]:
        """Continue a text, or token ids, event by event; closing the iterator ends it."""
        return self._events(self._generation.Generate, generate_request(prompt, settings, parse_special=parse_special))

    def chat(self, asked: str | Conversation, settings: Settings = AS_SERVED) -> AsyncGenerator[Event]:
        """Answer a conversation, or what a user says first, event by event; closing the iterator ends it."""
        return self._events(self._generation.Chat, chat_request(asked, settings))

    async def tokenize(self, text: str, *, parse_special: bool = False, add_bos: bool = True) -> tuple[int, ...]:
        """The token ids of a text."""
        request = TokenizeRequest(text=text, parse_special=parse_special, add_bos=add_bos)
        return tuple((await self._call(self._generation.Tokenize, request)).ids)

    async def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        text: str = (await self._call(self._generation.Detokenize, DetokenizeRequest(ids=ids))).text
        return text

    async def model(self) -> Model:
        """What is served."""
        return read_message(Model, (await self._call(self._model.GetModel, GetModelRequest())).model)

    async def _call(self, method: Any, request: Any) -> Any:
        patience = Patience(self._timeout_seconds, self._retry_seconds)
        while True:
            try:
                return await method(request, timeout=patience.timeout_seconds(), metadata=self._headers)
            except grpc.RpcError as error:
                pause = pause_after(patience, error, is_under_way=False)
            await asyncio.sleep(pause)

    async def _events(self, method: Any, request: Any) -> AsyncGenerator[Event]:
        patience = Patience(self._timeout_seconds, self._retry_seconds)
        while True:
            is_under_way = False
            call = method(request, timeout=patience.timeout_seconds(), metadata=self._headers)
            try:
                async for message in call:
                    event = read_event(message)
                    if event is not None:
                        is_under_way = is_under_way or isinstance(event, Delta)
                        yield event
                return
            except grpc.RpcError as error:
                pause = pause_after(patience, error, is_under_way=is_under_way)
            finally:
                call.cancel()
            await asyncio.sleep(pause)
