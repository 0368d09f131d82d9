"""Weights outlive workers, and with --survive-coordinator the coordinator, too."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from numoe.v1.placement_pb2 import GetPlacementResponse, RebalanceRequest
from numoe.v1.placement_pb2_grpc import PlacementServiceStub
from tests.system.clients import NOT_SERVING, SERVE_FLAGS, SERVING, Client, ask, connected
from tests.system.serve_process import ServeProcess, lives, serving, wait_until

TOKENS = 50


def experts_of(placement: GetPlacementResponse) -> list[list[tuple[int, ...]]]:
    """By worker and layer."""
    return [[tuple(held.experts) for held in worker.experts] for worker in placement.workers]


def pages_of(placement: GetPlacementResponse) -> list[list[object]]:
    """How sure it is where each worker's weights are, and on which nodes."""
    found = [worker.locality for worker in placement.workers]
    return [[one.binding, [*one.layers], one.vocabulary, one.kv] for one in found]


async def lose_a_worker(client: Client) -> None:
    """Until it is back."""
    health = client.health()
    await health.becomes(SERVING)
    os.kill((await client.workers())[0], signal.SIGKILL)
    await health.becomes(NOT_SERVING)
    await health.becomes(SERVING)


async def test_weights_are_taken_up_and_after_the_keeper_s_death_read_once_more(served_model: Path) -> None:
    flags = (*SERVE_FLAGS, "--split", "expert", "--standby")
    with serving(served_model.with_name("kept log"), str(served_model), *flags) as server:
        async with connected(server.address) as client:
            before, where = await client.tokens(ask(TOKENS)), await client.placement()
            await lose_a_worker(client)
            assert server.log.count('"weights_taken_up"') == 2
            assert await client.tokens(ask(TOKENS)) == before
            after = await client.placement()
            assert pages_of(after) == pages_of(where)
            keeper = server.keeper()
            assert keeper.memory_info().rss < 50 << 20
            keeper.kill()
            assert await client.tokens(ask(TOKENS)) == before
            await lose_a_worker(client)
            assert server.log.count('"keeper_lost"') == 1
            assert server.log.count('"weights_taken_up"') == 2
            assert await client.tokens(ask(TOKENS)) == before
            await lose_a_worker(client)
            assert server.log.count('"weights_taken_up"') == 4
            assert server.keeper() != keeper


async def test_the_next_coordinator_takes_over_what_a_killed_one_left(served_model: Path) -> None:
    flags = (*SERVE_FLAGS, "--split", "expert", "--survive-coordinator", "120")
    log = served_model.with_name("survive log")
    first = ServeProcess(log, str(served_model), *flags)
    async with connected(first.address) as client:
        tokens = await client.tokens(ask(TOKENS))
        moving = PlacementServiceStub(client.channel).Rebalance(RebalanceRequest(drain_worker=1))
        assert [answer.made async for answer in moving][-1] > 0
        experts, workers = experts_of(await client.placement()), await client.workers()
    keeper = first.keeper()
    first.process.kill()
    first.wait()
    wait_until(lambda: not any(map(psutil.pid_exists, workers)))
    assert lives(keeper)
    with serving(served_model.with_name("next log"), str(served_model), *flags) as server:
        async with connected(server.address) as client:
            assert server.log.count('"keeper_adopted"') == 1
            assert server.log.count('"weights_taken_up"') == 2
            assert experts_of(await client.placement()) == experts
            assert await client.tokens(ask(TOKENS)) == tokens
    wait_until(lambda: not lives(keeper))
