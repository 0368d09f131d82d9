"""The Python client against the real door and engine over fake workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from numoe.client import (
    Accepted,
    AsyncClient,
    CallFailed,
    ChatMessage,
    Client,
    Conversation,
    Delta,
    Event,
    Finished,
    Settings,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    whole,
)
from numoe.coordinator.settings import ListenSettings
from numoe.protos.errors import SetupError
from numoe.v1.model_pb2 import GetModelRequest
from tests.coordinator.access.made_keys import asking, make_keys
from tests.coordinator.access.test_tls import authority, encrypted
from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    ask,
    fake_workers,
    generated,
    running_server,
    settings_of,
    until,
)
from tests.coordinator.api.grpc.scripted import Scripted, chatting
from tests.coordinator.api.grpc.test_limits import settings_for
from tests.coordinator.engine.fake_executor import lose_workers_from
from tests.coordinator.engine.serving import Gate

SETTINGS = Settings(max_tokens=8, ignore_eos=True, seed=7, temperature=1.0, top_logprobs=2, logprobs=True)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


async def events_of(stream: AsyncIterator[Event]) -> list[Event]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [event async for event in stream]


async def test_both_clients_tell_what_the_wire_tells() -> None:
    async with running_server() as running:
        told = await generated(running, ask((1, 2, 3), sampling={"temperature": 1.0, "seed": 7}))
        async with AsyncClient(running.ready.address) as client:
            events = await events_of(client.generate((1, 2, 3), SETTINGS))
            ids = await client.tokenize("hello")
            text, model = await client.detokenize(ids), await client.model()

        def blocking() -> list[Any]:
            with Client(running.ready.address) as client:
                ids = client.tokenize("hello")
                events = list(client.generate((1, 2, 3), SETTINGS))
                return [whole(events).text, ids, client.detokenize(ids), client.model()]

        assert await asyncio.to_thread(blocking) == [told.text, ids, text, model]
        served = (await running.model.GetModel(GetModelRequest())).model
    first, *_, last = events
    tokens = [token for event in events if isinstance(event, Delta) for token in event.tokens]
    assert isinstance(first, Accepted)
    assert isinstance(last, Finished)
    assert (first.prompt_tokens, first.seed, last.reason, last.usage.completion_tokens) == (3, 7, "length", 8)
    assert (whole(events).text, [token.id for token in tokens]) == (told.text, told.ids)
    assert all(token.logprob is not None and len(token.top) == 2 for token in tokens)
    assert last.stop is None
    assert (text, model.name, model.tensor_types[0].type) == ("hello", served.name, served.tensor_types[0].type)


async def test_a_chat_has_thoughts_and_calls_and_goes_on_with_their_results() -> None:
    turns = [ChatMessage("system", "Be brief"), ChatMessage("user", "How is the weather?")]
    weather = Tool("weather", "Tells it.", '{"properties": {"city": {"type": "string"}}}')
    with chatting() as model:
        async with (
            running_server(Scripted(f"<think>\nwhy\n</think>\n\nLook:\n{CALL}"), **model) as running,
            AsyncClient(running.ready.address) as client,
        ):
            asked = Conversation(turns, [weather], ToolChoice(function="weather"), thinking=Thinking(enabled=True))
            answer = whole(await events_of(client.chat(asked)))
            [call] = answer.tool_calls
            result = ChatMessage("tool", "rain", tool_call_id=call.id, name=call.name)
            again = await events_of(client.chat(Conversation([*turns, answer.message, result], [weather])))
            assert isinstance(again[-1], Finished)
            with pytest.raises(CallFailed) as refused:
                await events_of(client.chat(Conversation([ChatMessage("")])))
    assert (answer.text, answer.reasoning, answer.finished.reason) == ("Look:", "why", "tool_calls")
    assert call == ToolCall(call.id, "weather", '{"city": "Paris"}')
    assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", "messages[0].role")


async def test_a_full_service_is_asked_again_for_as_long_as_one_likes() -> None:
    gate = Gate(0)
    async with running_server(fake_workers(before_collect=gate), settings_for(1)) as running:
        held = asyncio.create_task(generated(running, ask()))
        await until(lambda: sum(running.busy()[:2]) == 1)
        async with AsyncClient(running.ready.address) as client:
            with pytest.raises(CallFailed) as refused:
                await events_of(client.generate("a", SETTINGS))
        assert (refused.value.code, refused.value.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert refused.value.retry_seconds == 1.0
        assert refused.value.request_id
        async with AsyncClient(running.ready.address, retry_seconds=PATIENCE_SECONDS) as client:
            patient = asyncio.create_task(events_of(client.generate("a", SETTINGS)))
            rejected = running.coordinator.served_model().engine.counts
            before = rejected.rejected
            await until(lambda: rejected.rejected > before)
            gate.open()
            assert whole(await patient).text
        assert (await held).finished


async def test_nobody_is_asked_again_once_there_was_a_token() -> None:
    told: list[Event] = []
    async with (
        running_server(fake_workers(before_collect=lose_workers_from(5))) as running,
        AsyncClient(running.ready.address, retry_seconds=PATIENCE_SECONDS) as client,
    ):
        with pytest.raises(CallFailed) as lost:
            await note(client.generate("a", SETTINGS), told)
    assert (lost.value.code, lost.value.reason) == ("UNAVAILABLE", "WORKER_LOST")
    assert [isinstance(event, Accepted) for event in told].count(True) == 1
    assert any(isinstance(event, Delta) for event in told)


async def note(stream: AsyncIterator[Event], told: list[Event]) -> None:
    """Add what comes before a stream fails."""
    async for event in stream:
        told.append(event)


async def test_a_service_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'socket'}"
    async with AsyncClient(address) as client:
        with pytest.raises(CallFailed) as nobody:
            await client.model()
    assert (nobody.value.code, nobody.value.reason, nobody.value.retry_seconds) == ("UNAVAILABLE", "", None)
    async with AsyncClient(address, retry_seconds=PATIENCE_SECONDS) as client:
        waiting = asyncio.create_task(client.model())
        await asyncio.sleep(0)  # which has it ask for the first time
        async with running_server(settings=replace(settings_of(), listen=ListenSettings(address=address))):
            assert (await waiting).layers


async def test_whoever_stops_reading_ends_the_generation() -> None:
    gate = Gate(3)
    async with (
        running_server(fake_workers(before_collect=gate)) as running,
        AsyncClient(running.ready.address) as client,
    ):
        async with aclosing(client.generate("a", SETTINGS)) as stream:
            async for event in stream:
                if isinstance(event, Delta):
                    break
        gate.open()
        await until(lambda: running.busy() == (0, 0, 0))


async def test_a_key_and_certificates_let_a_client_in(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys")
    async with running_server(settings=asking(settings_of(), tmp_path / "keys")) as running:
        async with AsyncClient(running.ready.address, key=keys["infer"]) as client:
            assert await client.tokenize("a")
        async with AsyncClient(running.ready.address) as client:
            with pytest.raises(CallFailed) as refused:
                await client.tokenize("a")
        assert refused.value.code == "UNAUTHENTICATED"
    ours = authority(tmp_path / "ours")
    async with encrypted(ours) as running:
        credentials = grpc.ssl_channel_credentials(ours.root.read_bytes())
        async with AsyncClient(running.ready.address, credentials=credentials) as client:
            assert (await client.model()).layers


@contextmanager
def refused(problem: str) -> Iterator[None]:
    with pytest.raises(SetupError, match=problem):
        yield


def test_a_key_is_not_sent_for_all_to_read() -> None:
    for kind in (Client, AsyncClient):
        with refused("for all to read"):
            kind("10.0.0.1:50151", key="k")
        with refused("no port"):
            kind("127.0.0.1", key="k")
    Client("10.0.0.1:50151", key="k", insecure=True).close()
    Client("10.0.0.1:50151", key="k", credentials=grpc.ssl_channel_credentials()).close()


def test_events_without_an_end_are_no_answer() -> None:
    with pytest.raises(ValueError, match="without Finished"):
        whole([])
