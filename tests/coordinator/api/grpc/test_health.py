"""Health over gRPC: what it tells, to any number of watchers, of whom one that reads nothing holds up nobody."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from numoe.coordinator.api.grpc.server import SERVICE_NAMES
from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, Running, health_of, running_server
from tests.coordinator.api.grpc.odd_calls import call_oddly, framed

States = health_pb2.HealthCheckResponse
WATCH = health_pb2.HealthCheckRequest()


async def open_unread(running: Running) -> asyncio.StreamWriter:
    """Returns once the service has begun to answer."""
    reader, writer = await call_oddly(running.ready.address, "/grpc.health.v1.Health/Watch", framed(b""), room=0)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await reader.readuntil(b"application/grpc")
    return writer


async def test_a_watcher_that_reads_nothing_holds_up_neither_others_nor_the_end() -> None:
    async with running_server() as running:
        unread = await open_unread(running)
        async with asyncio.timeout(PATIENCE_SECONDS):
            watch = health_pb2_grpc.HealthStub(running.channel).Watch(WATCH)
            told = [(await watch.read()).status]
            running.coordinator.on_signal()
            told.append((await watch.read()).status)
            await running.task
        unread.close()
    assert told == [States.SERVING, States.NOT_SERVING]


async def test_watchers_are_told_each_change_once_and_of_services_that_are_not_there() -> None:
    async with running_server() as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        known = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAMES[0]), timeout=PATIENCE_SECONDS)
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE_SECONDS)
        assert (await known.read()).status == States.SERVING
        assert (await unknown.read()).status == States.SERVICE_UNKNOWN
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await health_of(running.channel, "nobody")
        listed = await stub.List(health_pb2.HealthListRequest())
        again = asyncio.create_task(known.read())
        running.coordinator.on_signal()
        assert (await again).status == States.NOT_SERVING
        unknown.cancel()
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert {name: one.status for name, one in listed.statuses.items()} == dict.fromkeys(
        ("", *SERVICE_NAMES), States.SERVING
    )
