"""One rebalancing at a time, in threads that nobody else needs."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import grpc
from google.rpc import error_details_pb2

from numoe.model.planning.expert_owners import share_experts
from numoe.model.planning.moves import ExpertMove
from numoe.v1.placement_pb2 import RebalanceRequest
from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    SHAPE,
    FakeWorkers,
    Running,
    detail_of,
    info_of,
    running_server,
    until,
)
from tests.coordinator.tiny_tokenizer import LETTERS

CALLERS = 40  # more than any pool of threads has


class SlowMovers(FakeWorkers):
    """Whole experts, each of which moves once the test lets it."""

    def __init__(self) -> None:
        super().__init__(LETTERS)
        self.moving, self.go_on = threading.Event(), threading.Event()
        self.threads: set[str] = set()

    def move_expert(self, move: ExpertMove) -> None:
        self.threads.add(threading.current_thread().name)
        self.moving.set()
        assert self.go_on.wait(PATIENCE_SECONDS)


def share(running: Running) -> None:
    """Let the workers hold whole experts."""
    shards = running.workers.shards
    owners = share_experts([1.0] * SHAPE.experts, 2)
    running.workers.shards = replace(shards, experts=(owners,) * SHAPE.layers)


async def rebalance(running: Running) -> int:
    """The messages of one call."""
    call = running.placement.Rebalance(RebalanceRequest(drain_worker=0), timeout=PATIENCE_SECONDS)
    return len([message async for message in call])


async def unless_refused(running: Running) -> int | None:
    try:
        return await rebalance(running)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


async def test_a_second_rebalancing_is_refused_until_the_first_one_has_ended() -> None:
    workers = SlowMovers()
    async with running_server(workers) as running:
        share(running)
        first = asyncio.create_task(rebalance(running))
        await until(workers.moving.is_set)
        refused = await asyncio.gather(*[rebalance(running) for _ in range(CALLERS)], return_exceptions=True)
        for error in refused:
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "experts are being moved" in str(error.details())
            assert info_of(error) == ("UNAVAILABLE", "numoe")
            assert detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        workers.go_on.set()
        assert await first > 1
        assert await rebalance(running) > 1
    assert {name.rpartition("_")[0] for name in workers.threads} == {"numoe-moves"}


async def test_a_client_that_goes_makes_room_for_another() -> None:
    workers = SlowMovers()
    async with running_server(workers) as running:
        share(running)
        call = running.placement.Rebalance(RebalanceRequest(drain_worker=0))
        await call.read()
        await until(workers.moving.is_set)
        call.cancel()
        workers.go_on.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (made := await unless_refused(running)) is None:
                pass
    assert made > 1
