"""What is too large, or comes at the wrong time, is refused before it costs anything; nobody else waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from numoe.model.text.part import Part
from numoe.model.text.tokenizer import Tokenizer
from numoe.v1.generation_pb2 import (
    ChatMessage,
    ChatRequest,
    DetokenizeRequest,
    GenerateRequest,
    Stopping,
    TokenizeRequest,
    Tool,
    ToolCall,
)
from tests.coordinator.api.grpc.grpc_serving import (
    ask,
    chatted,
    detail_of,
    generated,
    info_of,
    running_server,
    settings_of,
    small_workers,
    tiny_read,
    until,
)
from tests.coordinator.engine.serving import Gate

LARGE = 1 << 20


class CountingTokenizer:
    """The tiny model's tokenizer, which counts the characters that it is given to encode."""

    def __init__(self) -> None:
        self.characters = 0
        self._real: Tokenizer = tiny_read()[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[list[int]]:
        self.characters += sum(len(part.text) for part in parts)
        return self._real.encode_parts(parts)


async def refused(answer: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answer
    return raised.value


def field_of(error: grpc.aio.AioRpcError) -> str:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    return str(detail_of(error, error_details_pb2.BadRequest).field_violations[0].field)


async def test_what_cannot_fit_is_refused_before_it_is_encoded() -> None:
    tokenizer = CountingTokenizer()
    async with running_server(tokenizer=tokenizer) as running:
        errors = [
            await refused(generated(running, GenerateRequest(text="a b " * LARGE))),
            await refused(chatted(running, ChatRequest(messages=[ChatMessage(role="user", content="a" * 5 * LARGE)]))),
            await refused(running.generation.Tokenize(TokenizeRequest(text="a b " * LARGE))),
        ]
    assert [field_of(error) for error in errors] == ["text", "messages", "text"]
    assert all("bytes" in str(error.details()) for error in errors)
    assert tokenizer.characters == 0


async def test_counts_are_checked_before_anything_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("converted before it was counted")

    def convert(values: Sequence[int] | Sequence[str]) -> tuple[int, ...] | tuple[str, ...]:
        assert not len(values), "converted before it was counted"
        return ()

    for module in ("answering", "grpc.questions"):
        monkeypatch.setattr(f"numoe.coordinator.api.{module}.tuple", convert, raising=False)
        monkeypatch.setattr(f"numoe.coordinator.api.{module}.frozenset", convert, raising=False)
    for name in ("Turn", "Tool", "ToolCall"):
        monkeypatch.setattr(f"numoe.coordinator.api.grpc.conversations.{name}", refuse)
    calling = ChatMessage(role="assistant", tool_calls=[ToolCall()] * 4097)
    monkeypatch.setattr("numoe.coordinator.api.answering.decode", refuse)
    async with running_server() as running:
        errors = [
            await refused(generated(running, ask([1] * 300))),
            await refused(generated(running, ask(stopping=Stopping(stop_token_ids=[1] * 65)))),
            await refused(generated(running, ask(stopping=Stopping(stop=["a"] * 17)))),
            await refused(chatted(running, ChatRequest(messages=[ChatMessage(role="user")] * 257))),
            await refused(chatted(running, ChatRequest(messages=[calling]))),
            await refused(chatted(running, ChatRequest(tools=[Tool()] * 129))),
            await refused(running.generation.Detokenize(DetokenizeRequest(ids=[1] * (LARGE + 1)))),
        ]
        monkeypatch.undo()
    fields = ["token_ids.ids", "stopping.stop_token_ids", "stopping.stop", "messages", "messages", "tools", "ids"]
    assert [field_of(error) for error in errors] == fields


async def test_a_full_or_draining_service_encodes_nothing() -> None:
    gate, tokenizer = Gate(0), CountingTokenizer()
    workers, settings = small_workers(before_collect=gate), settings_of(queue_length=0)
    async with running_server(workers, settings, tokenizer=tokenizer) as running:
        held = asyncio.create_task(generated(running, ask()))
        await until(lambda: running.busy()[:2] == (1, 0))
        full = await refused(generated(running, GenerateRequest(text="Hello")))
        running.coordinator.on_signal()
        await until(lambda: running.coordinator.served_model().engine.snapshot().state == "draining")
        hello = ChatRequest(messages=[ChatMessage(role="user", content="Hello")])
        draining = await refused(chatted(running, hello))
        gate.open()
        assert (await held).finished
    assert info_of(full) == ("QUEUE_FULL", "numoe")
    assert info_of(draining) == ("UNAVAILABLE", "numoe")
    assert tokenizer.characters == 0
