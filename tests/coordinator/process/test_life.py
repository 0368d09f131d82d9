"""The server's life: listening, loading, health, reflection, draining."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from numoe.coordinator.api.grpc.server import SERVICE_NAMES
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.process.life import FORCED_EXIT_CODE, Coordinator, Ready
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import EngineSettings, ListenSettings, ServeSettings
from numoe.protos.errors import AddressInUse, ServiceError, SetupError, WorkerLost
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    ask,
    fake_workers,
    generated,
    health_of,
    info_of,
    read_all,
    running_server,
    served_model,
    settings_of,
    until,
)
from tests.coordinator.engine.fake_executor import lose_worker_at
from tests.coordinator.engine.serving import Gate

ROOT = Path(__file__).parents[3]
SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"


def ignore(phase: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


def fail_if_announced(ready: Ready) -> None:
    pytest.fail("announced")


class SlowLoad:
    """Loading that goes on, reporting all the time, until `finish` is called."""

    def __init__(self, settings: ServeSettings) -> None:
        self.begun, self._done = threading.Event(), threading.Event()
        self._settings = settings

    def __call__(self, report: LoadProgress) -> ServedModel:
        report("loading", 1, 2)
        self.begun.set()
        patience = time.monotonic() + 2 * PATIENCE_SECONDS  # a test that failed on the way never calls `finish`
        while not self._done.wait(0.005) and time.monotonic() < patience:
            report("loading", 1, 2)
        return served_model(fake_workers(), self._settings)

    def finish(self) -> None:
        self._done.set()


@asynccontextmanager
async def loading_service(
    settings: ServeSettings, announce: Callable[[Ready], None]
) -> AsyncIterator[tuple[Coordinator, SlowLoad]]:
    """A service whose doors are open while it loads; at the end a signal stops it."""
    load = SlowLoad(settings)
    coordinator = Coordinator(settings, load, ignore, announce)
    task = asyncio.create_task(coordinator.run())
    await until(lambda: load.begun.is_set() and bool(coordinator.loading().http))
    yield coordinator, load
    coordinator.on_signal()
    await task


async def ask_reflection(channel: grpc.aio.Channel, **question: str) -> reflection_pb2.ServerReflectionResponse:
    request = reflection_pb2.ServerReflectionRequest(**question)
    async for reply in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request])):
        return reply
    raise AssertionError("no reply")


async def test_reflection_lists_and_describes_the_services() -> None:
    async with running_server() as running:
        listed = await ask_reflection(running.channel, list_services="")
        described = await ask_reflection(running.channel, file_containing_symbol=SERVICE_NAMES[0])
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {*SERVICE_NAMES, "grpc.health.v1.Health"}
    files = [FileDescriptorProto.FromString(f) for f in described.file_descriptor_response.file_descriptor_proto]
    assert {method.name for file in files for service in file.service for method in service.method} == {
        "Generate",
        "Chat",
        "Tokenize",
        "Detokenize",
    }


async def test_health_serves_only_once_the_model_is_loaded(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    settings = ServeSettings(ListenSettings(address=address))
    load = SlowLoad(settings)
    announced: list[Ready] = []
    coordinator = Coordinator(settings, load, ignore, announced.append)
    task = asyncio.create_task(coordinator.run())
    await until(load.begun.is_set)
    async with grpc.aio.insecure_channel(address) as channel:
        for name in ("", *SERVICE_NAMES):
            assert await health_of(channel, name) == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await read_all(GenerationServiceStub(channel).Generate(ask()))
        assert info_of(raised.value) == ("UNAVAILABLE", "numoe")
        assert not announced
        load.finish()
        await until(lambda: bool(announced))
        for name in ("", *SERVICE_NAMES):
            assert await health_of(channel, name) == SERVING
        assert (announced[0].address, announced[0].workers, announced[0].threads) == (address, 2, 2)
    coordinator.on_signal()
    await task


async def test_a_signal_while_loading_ends_the_loading() -> None:
    load = SlowLoad(settings_of())
    coordinator = Coordinator(
        settings_of(), load, lambda phase, done, total: None, lambda ready: pytest.fail("announced")
    )
    task = asyncio.create_task(coordinator.run())
    await until(load.begun.is_set)
    coordinator.on_signal()
    await task


HANGING = """
import asyncio, os, signal, sys, threading
from numoe.coordinator.process import life
from tests.coordinator.api.grpc.grpc_serving import fake_workers, served_model, settings_of

def end(*_):
    os.kill(os.getpid(), signal.SIGTERM)

def hang(*_):
    threading.Event().wait()

def load(report):
    if sys.argv[1] == "loading":
        end()
        hang()
    workers = fake_workers()
    workers.close = hang
    return served_model(workers, settings)

settings = settings_of(drain_timeout_seconds=0.1)
life.END_SECONDS = 0.1
asyncio.run(life.serve(settings, load, lambda *_: None, end))
"""


@pytest.mark.parametrize(("hangs", "code"), [("loading", 0), ("closing", FORCED_EXIT_CODE)])
def test_a_signal_ends_the_process_though_a_thread_of_it_hangs(hangs: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", HANGING, hangs], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "end_forced" in done.stdout + done.stderr


async def test_a_refused_set_up_ends_the_server() -> None:
    def refuse(report: LoadProgress) -> ServedModel:
        raise SetupError("no such file")

    coordinator = Coordinator(
        settings_of(), refuse, lambda phase, done, total: None, lambda ready: pytest.fail("announced")
    )
    with pytest.raises(SetupError, match="no such file"):
        await coordinator.run()


async def test_health_follows_the_loss_and_the_return_of_workers() -> None:
    back = threading.Event()
    workers = fake_workers(before_collect=lose_worker_at(3), before_restart=back.wait)
    async with running_server(workers) as running:
        watch = health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest(service=""))
        seen = [(await watch.read()).status]
        answer = asyncio.create_task(generated(running, ask(max_tokens=50)))
        seen.append((await watch.read()).status)
        back.set()
        seen.append((await watch.read()).status)
        assert len((await answer).ids) == 50
        watch.cancel()
    states = health_pb2.HealthCheckResponse
    assert seen == [states.SERVING, states.NOT_SERVING, states.SERVING]


async def test_a_failed_restart_ends_the_service_with_its_error() -> None:
    def fail() -> None:
        raise WorkerLost("worker 1 died again")

    workers = fake_workers(before_collect=lose_worker_at(3), before_restart=fail)
    async with running_server(workers) as running:
        with pytest.raises(grpc.aio.AioRpcError):
            await generated(running, ask(max_tokens=50))
        with pytest.raises(ServiceError, match="died again"):
            await running.task


async def test_draining_lets_running_requests_finish_and_takes_no_new_ones() -> None:
    gate = Gate(5)
    async with running_server(fake_workers(before_collect=gate)) as running:
        answer = asyncio.create_task(generated(running, ask(max_tokens=60)))
        await gate.reached.wait()
        running.coordinator.on_signal()
        await until(lambda: running.coordinator.served_model().engine.snapshot().state == "draining")
        assert await health_of(running.channel) == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await generated(running, ask())
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.open()
        assert (await answer).finished.usage.completion_tokens == 60
        await running.task
    assert running.workers.closed == 1


@pytest.mark.parametrize("hurry", ["second signal", "timeout"])
async def test_draining_ends_early_on_a_second_signal_or_when_its_time_is_up(hurry: str) -> None:
    gate = Gate(5)
    settings = settings_of(drain_timeout_seconds=600.0 if hurry == "second signal" else 0.05)
    async with running_server(fake_workers(before_collect=gate), settings) as running:
        answer = asyncio.create_task(generated(running, ask(max_tokens=200)))
        await gate.reached.wait()
        running.coordinator.on_signal()
        if hurry == "second signal":
            running.coordinator.on_signal()
        await until(lambda: running.coordinator.served_model().engine.snapshot().state == "stopped")
        gate.open()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await answer
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        await running.task


async def test_a_taken_port_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        settings = ServeSettings(ListenSettings(address=address))
        coordinator = Coordinator(settings, SlowLoad(settings), ignore, fail_if_announced)
        with pytest.raises(AddressInUse, match=address):
            await coordinator.run()


async def test_two_servers_never_share_a_port() -> None:
    async with running_server() as running:
        settings = ServeSettings(ListenSettings(address=running.ready.address))
        second = Coordinator(settings, SlowLoad(settings), ignore, fail_if_announced)
        with pytest.raises(AddressInUse):
            await second.run()


async def test_an_address_of_another_machine_is_refused_for_what_it_is() -> None:
    settings = ServeSettings(ListenSettings(address="192.0.2.1:0", insecure=True), engine=EngineSettings())
    coordinator = Coordinator(settings, SlowLoad(settings), ignore, fail_if_announced)
    with pytest.raises(SetupError, match=r"192\.0\.2\.1") as raised:
        await coordinator.run()
    assert not isinstance(raised.value, AddressInUse)
