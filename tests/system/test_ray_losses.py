"""Ray's own processes die too: that is noticed at once, told, and survived on a new Ray, however often."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil  # type: ignore[import-untyped]
import pytest

from tests.coordinator.api.grpc.grpc_serving import info_of
from tests.system.clients import NOT_SERVING, SERVE_FLAGS, SERVING, Client, ask, connected
from tests.system.serve_process import ServeProcess, serving

TOKENS = 50
MOST_SECONDS_TO_NOTICE = 10.0  # promised is one; a loaded machine gets tenfold


@pytest.fixture(scope="module")
def server(served_model: Path) -> Iterator[ServeProcess]:
    """The last test of this file ends it."""
    with serving(served_model.with_name("log of losses"), str(served_model), *SERVE_FLAGS) as server:
        yield server


@pytest.fixture
async def client(server: ServeProcess) -> AsyncIterator[Client]:
    async with connected(server.address) as client:
        yield client


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


async def test_a_drain_while_ray_starts_anew_ends_at_once(server: ServeProcess, client: Client) -> None:
    health = client.health()
    await health.becomes(SERVING)
    belongings, log = server.belongings(), server.log()
    process_of_ray(server, "raylet").kill()
    await health.becomes(NOT_SERVING)
    server.process.send_signal(signal.SIGTERM)
    code, text = await asyncio.to_thread(server.wait)
    assert code == 0, text
    assert "The program will terminate" not in text
    assert text.count('"worker_lost"') == log.count('"worker_lost"') + 1
    belongings.assert_gone()
