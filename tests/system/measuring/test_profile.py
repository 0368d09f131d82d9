"""A running service is profiled while it answers: the same answers, and all of its steps' time."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from numoe.coordinator.commands.measuring.served_profile import read_profile
from numoe.coordinator.profiling.figures import accounted_of_all, read_rate
from numoe.v1.operations_pb2 import ProfileRequest, ProfileResponse
from numoe.v1.operations_pb2_grpc import OperationsServiceStub
from tests.system.clients import SERVE_FLAGS, SHAPE, Client, ask, connected
from tests.system.serve_process import NUMOE, PATIENCE_SECONDS, ServeProcess, serving

STEPS = 50


@pytest.fixture(scope="module")
def server(served_model: Path) -> Iterator[ServeProcess]:
    with serving(served_model.with_name("profile log"), str(served_model), *SERVE_FLAGS) as server:
        yield server


async def _profile(client: Client) -> ProfileResponse:
    answer = await OperationsServiceStub(client.channel).Profile(ProfileRequest(seconds=PATIENCE_SECONDS, steps=STEPS))
    assert isinstance(answer, ProfileResponse)
    return answer


async def test_an_answer_is_the_same_while_its_steps_are_profiled(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        alone = await client.tokens(ask(2 * STEPS))
        profile = asyncio.create_task(_profile(client))
        answers = []
        while not profile.done():
            answers.append(await client.tokens(ask(2 * STEPS)))
        found = read_profile((await profile).profile)
    assert set(map(tuple, answers)) == {tuple(alone)}
    assert found.steps >= STEPS
    assert found.layers == SHAPE.layers
    assert found.tokens >= found.steps
    assert 0.97 <= accounted_of_all(found) <= 1
    assert read_rate(found) > 0
    for worker in found.workers:
        assert worker.kv_bytes > 0
        assert len(worker.events) > 0
        assert worker.peak > 0


async def test_numoe_profiles_a_service(server: ServeProcess, tmp_path: Path) -> None:
    page = tmp_path / "profile.html"
    command = [NUMOE, "profile", "--server", server.address, "--steps", str(STEPS), "--seconds", "100"]
    async with connected(server.address) as client:
        stream = await client.endless()
        process = await asyncio.create_subprocess_exec(
            *command, "--output-format", "json", "--html", str(page), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        stream.call.cancel()
    assert process.returncode == 0, err
    facts = json.loads(out)
    assert facts["title"].endswith(f", served at {server.address}")
    assert facts["accounted"] > 0.97
    assert page.exists()


async def test_a_service_that_nobody_asks_has_no_profile(server: ServeProcess) -> None:
    command = [NUMOE, "profile", "--server", server.address, "--seconds", "0.1"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 1
    assert b"no step was run meanwhile" in err


async def test_a_profile_of_eleven_minutes_is_refused(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await OperationsServiceStub(client.channel).Profile(ProfileRequest(seconds=660))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
