"""Who takes all places, or reads nothing, holds up neither health checks nor, for long, anybody else."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc._cython.cygrpc import ExecuteBatchError  # type: ignore[import-not-found,unused-ignore]
from grpc_health.v1 import health_pb2, health_pb2_grpc

from numoe.coordinator.api.answering import Answer
from numoe.coordinator.api.grpc import calls
from numoe.coordinator.api.grpc.events import EventFields, event_fields
from numoe.coordinator.settings import EngineSettings, ListenSettings, ServeSettings
from numoe.v1.generation_pb2 import Delta, TokenizeRequest
from numoe.v1.placement_pb2 import GetPlacementRequest
from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    Running,
    ask,
    detail_of,
    fake_workers,
    generated,
    health_of,
    info_of,
    running_server,
    until,
)
from tests.coordinator.api.grpc.odd_calls import call_oddly, framed
from tests.coordinator.engine.serving import Gate

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def settings_for(places: int, **engine: Any) -> ServeSettings:
    listen = ListenSettings(address="127.0.0.1:0", concurrent_requests=places)
    return ServeSettings(listen, engine=EngineSettings(**engine))


async def test_generating_calls_have_a_limit_that_nothing_else_shares() -> None:
    gate = Gate(0)
    async with running_server(fake_workers(before_collect=gate), settings_for(2)) as running:
        held = [asyncio.create_task(generated(running, ask())) for _ in range(2)]
        await until(lambda: sum(running.busy()[:2]) == 2)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await generated(running, ask())
        assert await health_of(running.channel) == "SERVING"
        assert (await running.placement.GetPlacement(GetPlacementRequest())).workers
        assert (await running.generation.Tokenize(TokenizeRequest(text="a"))).ids
        gate.open()
        assert all(told.finished for told in await asyncio.gather(*held))
        assert (await generated(running, ask())).finished
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info_of(raised.value) == ("QUEUE_FULL", "numoe")
    assert detail_of(raised.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() >= 100


@pytest.mark.parametrize(
    "method",
    [
        "numoe.v1.PlacementService/GetPlacement",
        "numoe.v1.GenerationService/Generate",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_bytes_that_are_no_message_are_an_invalid_argument(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running_server() as running:
        call: Any = running.channel.stream_stream(f"/{method}")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in call(iter([b"\xff\xff"])):
                pass
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(raised.value) == ("INVALID_REQUEST", "numoe")
    assert "2 bytes are not what the method takes" in str(raised.value.details())
    assert not caplog.records, "gRPC logged what a client sent"


async def test_an_answer_that_comes_too_late_is_logged_by_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*status: Any) -> grpc.aio.Metadata:
        raise ExecuteBatchError("execute_batch", ())  # as gRPC where it has not yet heard of the client's end

    monkeypatch.setattr(calls, "grpc_status", too_late)
    async with running_server() as running:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await running.generation.Tokenize(TokenizeRequest(text="a" * (1 << 21)), timeout=0.5)
        assert await health_of(running.channel) == "SERVING"
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [record.getMessage() for record in caplog.records] == []


async def test_watching_health_takes_nobodys_place() -> None:
    async with running_server(settings=settings_for(1)) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(40)]
        assert {(await watch.read()).status for watch in watches} == {health_pb2.HealthCheckResponse.SERVING}
        assert (await generated(running, ask())).finished
        for watch in watches:
            watch.cancel()


async def test_an_answer_that_is_not_read_ends_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    made = asyncio.Event()

    def wide(event: Any, answer: Answer, *rest: Any, **more: Any) -> EventFields:
        if answer.request.request_id != "unread":
            return event_fields(event, answer, *rest, **more)
        made.set()
        return {"delta": Delta(text="x" * 4_000_000)}  # more than is sent ahead of who reads

    monkeypatch.setattr("numoe.coordinator.api.grpc.generation.event_fields", wide)
    monkeypatch.setattr("numoe.coordinator.api.grpc.accepting.UNREAD_SECONDS", 0.2)
    async with running_server(settings=settings_for(1, request_timeout_seconds=0.2)) as running:
        unread = running.generation.Generate(ask(request_id="unread"))
        await made.wait()
        assert not unread.done()

        codes = [await code_of(running)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while codes[-1] is not grpc.StatusCode.OK:
                await asyncio.sleep(0.02)
                codes.append(await code_of(running))
        unread.cancel()
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK}


async def code_of(running: Running) -> grpc.StatusCode:
    """How one more call ends."""
    call = running.generation.Generate(ask(max_tokens=2), timeout=PATIENCE_SECONDS)
    with suppress(grpc.aio.AioRpcError):
        async for _ in call:
            pass
    return await call.code()


@pytest.mark.parametrize(
    "method", ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch", "numoe.v1.GenerationService/Generate"]
)
async def test_a_message_that_does_not_come_whole_is_told_so(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself gRPC would wait for ever, and leave unanswered what ends without any."""
    monkeypatch.setattr(calls, "MESSAGE_SECONDS", 0.2)
    half = framed(bytes(1000))[:500]
    async with running_server() as running:
        for data, ends, told in (
            (half, False, b"message: did not come within 0.2 s"),
            (b"", False, b"message: did not come within 0.2 s"),
            (half, True, b"message: is missing; expected a whole one"),
            (b"", True, b"message: is missing; expected a whole one"),
        ):
            reader, writer = await call_oddly(running.ready.address, f"/{method}", data, ends=ends)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.readuntil(b"grpc-status\x013")
                await reader.readuntil(told)
            writer.close()
        assert await health_of(running.channel) == "SERVING"


async def test_a_header_that_is_no_utf_8_stands_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with running_server() as running:
        path = "/grpc.health.v1.Health/Check"
        reader, writer = await call_oddly(running.ready.address, path, framed(b""), authorization="Bearer secr\xe9t")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await reader.readuntil(b"grpc-status\x010")
        writer.close()
    assert not caplog.records, "gRPC logged what a client sent"


async def test_messages_that_do_not_come_give_way_to_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_RECEIVED", 3)
    monkeypatch.setattr(calls, "MESSAGE_SECONDS", 2 * PATIENCE_SECONDS)  # so that nothing else ends them
    async with running_server() as running:
        address = running.ready.address
        held = [await call_oddly(address, "/grpc.health.v1.Health/Check", ends=False) for _ in range(6)]
        assert await health_of(running.channel) == "SERVING"
        for reader, _ in held[:3]:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.readuntil(b"or while 3 others were coming")
        for _, writer in held:
            writer.close()


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numoe.coordinator.api.grpc.server.CONNECTIONS", 3)
    async with running_server() as running:
        assert await health_of(running.channel) == "SERVING"  # over the first
        host, _, port = running.ready.address.rpartition(":")
        pairs = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
        heard = await asyncio.gather(*(greeting(reader) for reader, _ in pairs))
        assert sum(map(bool, heard)) <= 3
        assert await health_of(running.channel) == "SERVING"
        for _, writer in pairs:
            writer.close()


async def test_calls_that_come_while_the_service_is_busy_are_answered_however_many_and_late() -> None:
    """Left to itself, gRPC ends those that wait as CANCELLED: above 1,000 of a method some, after 30 s all."""
    request = health_pb2.HealthCheckRequest()
    async with running_server() as running:
        with ExitStack() as opened:
            channels = [
                opened.enter_context(grpc.insecure_channel(running.ready.address, OWN_CONNECTION)) for _ in range(25)
            ]
            stubs = [health_pb2_grpc.HealthStub(channel) for channel in channels]
            for stub in stubs:
                await asyncio.to_thread(stub.Check, request, wait_for_ready=True)
            calls = [stub.Check.future(request) for _ in range(100) for stub in stubs]
            time.sleep(31.0)  # the service's event loop is this one
            ends = await asyncio.to_thread(lambda: Counter(str(call.code()) for call in calls))
    assert ends == {"StatusCode.OK": len(calls)}


async def test_a_connection_that_nobody_uses_is_closed_and_one_in_use_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a client which opens them all, and leaves them, keeps nobody out for ever."""
    monkeypatch.setattr("numoe.coordinator.api.grpc.server.UNUSED_MILLISECONDS", 300)
    async with running_server() as running, grpc.aio.insecure_channel(running.ready.address, OWN_CONNECTION) as used:
        watch = health_pb2_grpc.HealthStub(used).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        assert await health_of(running.channel) == "SERVING"
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        assert used.get_state() is grpc.ChannelConnectivity.READY
        assert await health_of(running.channel) == "SERVING"  # over a new one
        watch.cancel()


async def greeting(reader: asyncio.StreamReader) -> bytes:
    """The settings that a server of HTTP/2 sends at once; nothing if it closes the connection."""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read(9)
    return b""
