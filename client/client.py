"""A client of the service whose calls block."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any

import grpc

from numoe.client.channels import headers_of, open_channel, refuse_to_tell
from numoe.client.events import Delta, Event, read_event
from numoe.client.models import Model
from numoe.client.patience import Patience, pause_after
from numoe.client.questions import Conversation, Settings, chat_request, generate_request
from numoe.protos.plain_data import read_message
from numoe.v1.generation_pb2 import DetokenizeRequest, TokenizeRequest
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from numoe.v1.model_pb2 import GetModelRequest
from numoe.v1.model_pb2_grpc import ModelServiceStub

AS_SERVED = Settings()


class Client:
    """One connection, for any number of threads, to be used in `with` or closed. Its calls raise CallFailed.

    What fails before the first token is asked again, for as long as `retry_seconds`: nothing is answered twice.
    """

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
        """Connects with the first call.

        Args:
            address: HOST:PORT or unix:PATH.
            key: that the service asks for; "": none.
            credentials: of an encrypted connection; None: nothing is encrypted.
            insecure: whether the key may be sent beyond this machine all the same.
            timeout_seconds: of each question, retries included; None: as long as the service takes.
            retry_seconds: how long questions are asked again while the service is full, starting or away.

        Raises SetupError: the address has no port, or others would see the key.
        """
        if not insecure:
            refuse_to_tell(key, address, credentials)
        self._channel = open_channel(address, credentials)
        self._generation, self._model = GenerationServiceStub(self._channel), ModelServiceStub(self._channel)
        self._headers = headers_of(key)
        self._timeout_seconds, self._retry_seconds = timeout_seconds, retry_seconds

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what is open, and the connection."""
        self._channel.close()

    def generate(
        self, prompt: str | Sequence[int], settings: Settings = AS_SERVED, *, parse_special: bool = False
    ) -> Generator[Event]:
        """Continue a text, or token ids, event by event; closing the iterator ends it."""
        return self._events(self._generation.Generate, generate_request(prompt, settings, parse_special=parse_special))

    def chat(self, asked: str | Conversation, settings: Settings = AS_SERVED) -> Generator[Event]:
        """Answer a conversation, or what a user says first, event by event; closing the iterator ends it."""
        return self._events(self._generation.Chat, chat_request(asked, settings))

    def tokenize(self, text: str, *, parse_special: bool = False, add_bos: bool = True) -> tuple[int, ...]:
        """The token ids of a text."""
        request = TokenizeRequest(text=text, parse_special=parse_special, add_bos=add_bos)
        return tuple(self._call(self._generation.Tokenize, request).ids)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        text: str = self._call(self._generation.Detokenize, DetokenizeRequest(ids=ids)).text
        return text

    def model(self) -> Model:
        """What is served."""
        return read_message(Model, self._call(self._model.GetModel, GetModelRequest()).model)

    def _call(self, method: Any, request: Any) -> Any:
        patience = Patience(self._timeout_seconds, self._retry_seconds)
        while True:
            try:
                return method(request, timeout=patience.timeout_seconds(), metadata=self._headers)
            except grpc.RpcError as error:
                pause = pause_after(patience, error, is_under_way=False)
            time.sleep(pause)

    def _events(self, method: Any, request: Any) -> Generator[Event]:
        patience = Patience(self._timeout_seconds, self._retry_seconds)
        while True:
            is_under_way = False
            call = method(request, timeout=patience.timeout_seconds(), metadata=self._headers)
            try:
                for message in call:
                    event = read_event(message)
                    if event is not None:
                        is_under_way = is_under_way or isinstance(event, Delta)
                        yield event
                return
            except grpc.RpcError as error:
                pause = pause_after(patience, error, is_under_way=is_under_way)
            finally:
                call.cancel()
            time.sleep(pause)
