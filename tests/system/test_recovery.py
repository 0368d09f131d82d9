"""What the death of a process costs: the open requests, seconds, and nothing that stays on the machine."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil  # type: ignore[import-untyped]
import pytest
from google.rpc import error_details_pb2

from tests.coordinator.api.grpc.grpc_serving import detail_of, info_of
from tests.coordinator.commands.terminal_process import OnTerminal
from tests.system.clients import NOT_SERVING, SERVE_FLAGS, SERVING, SHAPE, Client, Stream, ask, connected, full
from tests.system.serve_process import NUMOE, ServeProcess, serving
from tests.tiny_model import write_tiny_model

MOST_SECONDS_TO_FAIL = 2.0  # promised for a worker that is killed
MOST_SECONDS_TO_NOTICE = 10.0  # of Ray's processes; promised is one, a loaded machine gets tenfold
STEP_TIMEOUT_SECONDS = 5.0
TOKENS = 50


@pytest.fixture(scope="module")
def server(served_model: Path) -> Iterator[ServeProcess]:
    """The last test of this file ends it."""
    flags = (*SERVE_FLAGS, "--queue-length", "1", "--step-timeout-seconds", str(STEP_TIMEOUT_SECONDS))
    with serving(served_model.with_name("log"), str(served_model), *flags) as server:
        yield server


@pytest.fixture
async def client(server: ServeProcess) -> AsyncIterator[Client]:
    async with connected(server.address) as client:
        yield client


async def assert_lost(stream: Stream) -> None:
    """The stream ends with a terminal message and a status that name the loss of a worker, and say when to retry."""
    error = await stream.fail()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(error) == ("WORKER_LOST", "numoe")
    assert detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert stream.messages[-1].failed.reason == "WORKER_LOST"
    assert stream.messages[-1].failed.message == error.details()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP], ids=lambda number: number.name)
async def test_a_lost_worker_ends_every_open_request_and_the_service_comes_back(
    client: Client, number: signal.Signals
) -> None:
    before, pids = await client.tokens(ask(TOKENS)), await client.workers()
    health = client.health()
    await health.becomes(SERVING)
    async with full(client) as (running, waiting):
        os.kill(pids[1], number)
        signalled = time.monotonic()
        await asyncio.gather(*[assert_lost(stream) for stream in (*running, waiting)])
    if number is signal.SIGKILL:
        assert max(stream.ended_at for stream in (*running, waiting)) - signalled < MOST_SECONDS_TO_FAIL
    await health.becomes(NOT_SERVING)
    await health.becomes(SERVING)
    assert await client.tokens(ask(TOKENS)) == before
    assert not set(pids) & set(await client.workers())
    assert not [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists()]


async def test_a_worker_lost_while_idle_is_replaced_before_anybody_asks(client: Client) -> None:
    before, pids = await client.tokens(ask(TOKENS)), await client.workers()
    health = client.health()
    await health.becomes(SERVING)
    os.kill(pids[0], signal.SIGKILL)
    await health.becomes(NOT_SERVING)
    await health.becomes(SERVING)
    assert await client.tokens(ask(TOKENS)) == before


async def test_a_conversation_outlives_a_worker(server: ServeProcess, client: Client) -> None:
    with OnTerminal("chat", "--address", server.address) as chat:
        await asyncio.to_thread(chat.until, "(?m)^> ")
        chat.type("Hello")
        await asyncio.to_thread(chat.until, "Hello\n")
        begin = await asyncio.to_thread(chat.until, "(?s).{20}")
        os.kill((await client.workers())[1], signal.SIGKILL)
        await asyncio.to_thread(chat.until, "the answer so far is not kept, the conversation is: /regen asks again\n> ")
        chat.type("/regen")
        await asyncio.to_thread(chat.until, re.escape(begin))  # once the workers are back, as the service says
        chat.interrupt()
        await asyncio.to_thread(chat.until, "(?m)^> ")
        chat.type("/exit")
        assert await asyncio.to_thread(chat.wait) == 0


async def test_a_service_whose_log_is_full_replaces_a_worker_and_drains_and_the_logs_of_ray_stay(
    served_model: Path,
) -> None:
    full_log = ("bash", "-c", 'exec "$@" 2>/dev/full', "bash", NUMOE)  # as on a disk without space
    log = served_model.with_name("no log")
    with serving(log, str(served_model), *SERVE_FLAGS, program=full_log) as server:
        async with connected(server.address) as client:
            before, health, [_, pid] = await client.tokens(ask(TOKENS)), client.health(), await client.workers()
            await health.becomes(SERVING)
            os.kill(pid, signal.SIGKILL)
            await health.becomes(NOT_SERVING)
            await health.becomes(SERVING)
            assert await client.tokens(ask(TOKENS)) == before
            belongings = server.belongings()
    assert (belongings.folder / "logs/raylet.out").exists()
    shutil.rmtree(belongings.folder)


def process_of_ray(server: ServeProcess, name: str) -> psutil.Process:
    """The process of that name among those that the service started."""
    [found] = [one for one in psutil.Process(server.process.pid).children(recursive=True) if one.name() == name]
    return found


def beside_ray(process: psutil.Process) -> bool:
    """Whether it is a program of ours that no Ray started: it renders chats, or waits for the service's end."""
    return any(argument.startswith("numoe.") for argument in process.cmdline())


@pytest.mark.parametrize(
    ("name", "told", "streaming"),
    [
        ("raylet", "raylet", False),
        ("gcs_server", "gcs_server", True),
        ("ray::RuntimeEnvAgent", "raylet", True),  # raylet ends with it
        ("gcs_server", "gcs_server", False),
    ],
)
async def test_a_lost_process_of_ray_is_a_loss_and_the_service_comes_back(
    server: ServeProcess, client: Client, name: str, told: str, streaming: bool
) -> None:
    before, workers = await client.tokens(ask(TOKENS)), await client.workers()
    stream, health, dying = await client.endless() if streaming else None, client.health(), process_of_ray(server, name)
    old = psutil.Process(server.process.pid).children(recursive=True)
    await health.becomes(SERVING)
    dying.kill()
    if name == told:
        async with asyncio.timeout(MOST_SECONDS_TO_NOTICE):
            await health.becomes(NOT_SERVING)
    else:
        await health.becomes(NOT_SERVING)
    if stream is not None:
        error = await stream.fail()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert info_of(error) == ("WORKER_LOST", "numoe")
        assert f"Ray's {told} " in str(error.details())
    await health.becomes(SERVING)
    assert await client.tokens(ask(TOKENS)) == before
    assert not set(workers) & set(await client.workers())
    assert [one for one in old if one.is_running() and not beside_ray(one)] == []


async def test_a_drain_while_ray_starts_anew_ends_at_once(served_model: Path) -> None:
    with serving(served_model.with_name("log of one that lost"), str(served_model), *SERVE_FLAGS) as server:
        async with connected(server.address) as client:
            health, belongings = client.health(), server.belongings()
            await health.becomes(SERVING)
            process_of_ray(server, "raylet").kill()
            await health.becomes(NOT_SERVING)
            server.process.send_signal(signal.SIGTERM)
            code, text = await asyncio.to_thread(server.wait)
    assert code == 0, text
    assert "The program will terminate" not in text
    assert text.count('"worker_lost"') == 1
    belongings.assert_gone()
    shutil.rmtree(belongings.folder)


async def test_a_model_that_was_replaced_is_not_served_under_the_name_of_the_old_one(tmp_path: Path) -> None:
    path, other = tmp_path / "served.gguf", tmp_path / "other.gguf"
    write_tiny_model(path, SHAPE)
    write_tiny_model(other, SHAPE, seed=1)
    with serving(tmp_path / "log", str(path), *SERVE_FLAGS) as server:
        async with connected(server.address) as client:
            [_, pid] = await client.workers()
            os.replace(other, path)
            os.kill(pid, signal.SIGKILL)
            code, text = await asyncio.to_thread(server.wait)
    assert code == 2, text
    assert f"{path} was changed or replaced since the model was planned by it" in text.replace("\n", " ")


async def test_nothing_outlives_a_killed_coordinator(server: ServeProcess, client: Client) -> None:
    stream = await client.endless()
    belongings = server.belongings()
    server.process.kill()
    assert (await stream.fail()).code() is grpc.StatusCode.UNAVAILABLE
    assert server.wait()[0] == -signal.SIGKILL
    belongings.assert_gone()
