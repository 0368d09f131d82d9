"""What the death of a process costs: seconds, no request, and nothing that stays on the machine."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil  # type: ignore[import-untyped]
import pytest

from numoe.coordinator.machine.model_file import read_spec
from numoe.keeper import process as keeper
from numoe.v1.placement_pb2 import WORKER_STATE_READY, WORKER_STATE_STUCK, GetPlacementRequest
from numoe.v1.placement_pb2_grpc import PlacementServiceStub
from tests.coordinator.commands.terminal_process import OnTerminal
from tests.system.clients import NOT_SERVING, SERVE_FLAGS, SERVING, SHAPE, Client, ask, connected, full
from tests.system.serve_process import NUMOE, PATIENCE_SECONDS, ServeProcess, serving
from tests.tiny_model import write_tiny_model

MOST_SECONDS_TO_NOTICE = 10.0  # of Ray's processes; promised is one, a loaded machine gets tenfold
STUCK_SECONDS = 3.0
TOKENS = 50


@pytest.fixture(scope="module")
def server(served_model: Path) -> Iterator[ServeProcess]:
    """The last test of this file ends it."""
    flags = (*SERVE_FLAGS, "--queue-length", "1", "--stuck-seconds", str(STUCK_SECONDS), "--verify-weights", "0.5")
    with serving(served_model.with_name("log"), str(served_model), *flags) as server:
        yield server


@pytest.fixture
async def client(server: ServeProcess) -> AsyncIterator[Client]:
    async with connected(server.address) as client:
        yield client


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "worker 1 died"),
        (signal.SIGBUS, "worker 1 died of a bus error"),
        (signal.SIGSTOP, "worker 1 has been stuck for 3 s: its thread 0 neither computes nor waits"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_a_lost_worker_is_replaced_and_every_open_request_goes_on(
    client: Client, number: signal.Signals, told: str
) -> None:
    before, pids = await client.tokens(ask(TOKENS)), await client.workers()
    expected = [await client.begin_of(seed, 1000) for seed in range(2)]
    health = client.health()
    await health.becomes(SERVING)
    async with full(client) as (running, waiting):
        os.kill(pids[1], number)
        await health.becomes(NOT_SERVING)
        await health.becomes(SERVING)
        for stream, tokens in zip(running, expected, strict=True):
            await stream.read_until("resumed")
            assert told in stream.messages[-1].resumed.reason
            assert await stream.first_tokens(1000) == tokens
        running[0].call.cancel()
        await waiting.read_until("delta")
        assert "resumed" not in [message.WhichOneof("event") for message in waiting.messages]
    assert await client.tokens(ask(TOKENS)) == before
    assert not set(pids) & set(await client.workers())
    assert not [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists()]


async def test_a_bit_that_flips_in_weights_is_found_and_the_worker_is_replaced(
    served_model: Path, server: ServeProcess, client: Client
) -> None:
    before, health = await client.tokens(ask(TOKENS)), client.health()
    await health.becomes(SERVING)
    spec = read_spec(served_model)
    with served_model.open("rb") as file:
        file.seek(spec.token_embedding.offset)
        rows = file.read(16 * spec.token_embedding.row_bytes)  # which lie in memory as in the file
    assert flip_a_bit_of(server.keeper().pid, rows) > 0
    await health.becomes(NOT_SERVING)
    assert "worker 0 died: the weights of the vocabulary changed in memory since they were loaded" in server.log
    await health.becomes(SERVING)
    assert await client.tokens(ask(TOKENS)) == before  # which weights that were taken up again would not give


def flip_a_bit_of(keeper: int, wanted: bytes) -> int:
    """Change the last byte of these bytes wherever they lie in memory that is kept; returns how often."""
    changed = 0
    for entry in Path(f"/proc/{keeper}/fd").iterdir():
        if "numoe-weights" in os.readlink(entry):
            with entry.open("r+b", buffering=0) as memory:
                found = memory.read().find(wanted)
                if found >= 0:
                    memory.seek(found + len(wanted) - 1)
                    memory.write(bytes([wanted[-1] ^ 1]))
                    changed += 1
    return changed


async def test_a_stopped_worker_is_shown_as_stuck_and_goes_on_where_it_was(client: Client) -> None:
    expected = await client.begin_of(1, 500)
    stream, placement = await client.endless(), PlacementServiceStub(client.channel)
    pids = await client.workers()

    async def states() -> list[int]:
        return [worker.state for worker in (await placement.GetPlacement(GetPlacementRequest())).workers]

    os.kill(pids[1], signal.SIGSTOP)
    async with asyncio.timeout(STUCK_SECONDS):
        while await states() != [WORKER_STATE_READY, WORKER_STATE_STUCK]:
            await asyncio.sleep(0.02)
    os.kill(pids[1], signal.SIGCONT)
    assert await stream.first_tokens(500) == expected
    stream.call.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await states() != [WORKER_STATE_READY] * 2:
            await asyncio.sleep(0.02)
    assert await client.workers() == pids


async def test_workers_lost_while_idle_are_replaced_before_anybody_asks(server: ServeProcess, client: Client) -> None:
    before, pids = await client.tokens(ask(TOKENS)), await client.workers()
    health = client.health()
    await health.becomes(SERVING)
    os.kill(pids[0], signal.SIGILL)
    os.kill(pids[1], signal.SIGTERM)
    await health.becomes(NOT_SERVING)
    await health.becomes(SERVING)
    assert "worker 0 died of an illegal instruction" in server.log
    assert await client.tokens(ask(TOKENS)) == before


async def test_a_conversation_goes_on_past_a_worker(server: ServeProcess, client: Client) -> None:
    with OnTerminal("chat", "--address", server.address) as chat:
        await asyncio.to_thread(chat.until, "(?m)^> ")
        chat.type("Hello")
        await asyncio.to_thread(chat.until, "Hello\n")
        await asyncio.to_thread(chat.until, "(?s).{20}")
        health = client.health()
        await health.becomes(SERVING)
        os.kill((await client.workers())[1], signal.SIGKILL)
        await health.becomes(NOT_SERVING)
        await health.becomes(SERVING)
        await asyncio.to_thread(chat.until, "(?s).{2000}")
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
    """Whether it is a program of ours that no Ray started: it renders chats, keeps weights, or waits for the end."""
    return any(argument.startswith("numoe.") or argument == keeper.__file__ for argument in process.cmdline())


@pytest.mark.parametrize(
    ("name", "streaming"),
    [
        ("raylet", False),
        ("ray::RuntimeEnvAgent", True),  # raylet ends its workers, and then itself: either may be seen first
    ],
)
async def test_a_lost_process_of_ray_is_a_loss_and_the_service_comes_back(
    server: ServeProcess, client: Client, name: str, streaming: bool
) -> None:
    before, workers, told = await client.tokens(ask(TOKENS)), await client.workers(), len(server.log)
    stream, health, dying = await client.endless() if streaming else None, client.health(), process_of_ray(server, name)
    old = psutil.Process(server.process.pid).children(recursive=True)
    await health.becomes(SERVING)
    dying.kill()
    if name == "raylet":
        async with asyncio.timeout(MOST_SECONDS_TO_NOTICE):
            await health.becomes(NOT_SERVING)
    else:
        await health.becomes(NOT_SERVING)
    await health.becomes(SERVING)
    if stream is not None:
        await stream.read_until("resumed")
        assert re.search(r"Ray's raylet|worker [01] died", stream.messages[-1].resumed.reason)
        stream.call.cancel()
    assert re.search(r'"ray_starts_anew".* "died": "raylet \(pid \d+\)"', server.log[told:])
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
