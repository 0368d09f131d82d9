"""Profiles of a running service: one at a time, within bounds, and nothing is noted once nobody wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from numoe.coordinator.operations.operations import Operations
from numoe.coordinator.workers.started import open_channel
from numoe.coordinator.workers.step_channel import StepChannel
from numoe.protos.errors import InvalidRequest, Unavailable
from numoe.protos.messages import StepLimits
from numoe.protos.profile import NOTHING, TIME_LINE
from tests.coordinator.operations.test_operations import operating
from tests.coordinator.workers.holders import PLAN, SPEC, whole

LIMITS = StepLimits(step_tokens=4, sequences=2, context_tokens=64, kv_blocks=2, block_positions=64)
ENDLESS = 600.0


@asynccontextmanager
async def profiled() -> AsyncIterator[tuple[Operations, StepChannel]]:
    workers = whole()
    workers.channel = channel = open_channel(SPEC, PLAN, LIMITS)
    try:
        async with operating(workers) as operations:
            yield operations, channel
    finally:
        channel.close()


async def noted(channel: StepChannel, level: int) -> None:
    """Until threads are told to note this."""
    async with asyncio.timeout(30):
        while channel.profile_level != level:
            await asyncio.sleep(0)


async def ended(operations: Operations) -> None:
    """Until another profile could be taken."""
    async with asyncio.timeout(30):
        while True:
            try:
                await operations.profile(0.001, 0)
            except Unavailable:
                await asyncio.sleep(0)
            else:
                return


async def test_a_profile_ends_with_its_seconds_and_tells_what_it_saw() -> None:
    async with profiled() as (operations, channel):
        found = await operations.profile(0.01, 0)
        assert (found.steps, found.tokens, len(found.workers)) == (0, 0, 2)
        assert found.seconds >= 0.01
        assert channel.profile_level == NOTHING


@pytest.mark.parametrize("seconds", [-1.0, 600.1, float("nan"), float("inf")])
async def test_bounds_are_held(seconds: float) -> None:
    async with profiled() as (operations, _):
        with pytest.raises(InvalidRequest, match="expected 0 to 600"):
            await operations.profile(seconds, 0)


async def test_a_second_profile_is_refused_until_the_first_has_ended() -> None:
    async with profiled() as (operations, channel):
        first = asyncio.create_task(operations.profile(ENDLESS, 0))
        await noted(channel, TIME_LINE)
        with pytest.raises(Unavailable, match="another profile"):
            await operations.profile(0.01, 0)
        operations.close()  # the service ends, and does not wait ten minutes for a profile
        assert (await first).seconds < ENDLESS
        assert (await operations.profile(0.01, 0)).steps == 0


async def test_nothing_is_noted_for_a_client_that_went_away() -> None:
    async with profiled() as (operations, channel):
        for _ in range(5):
            asked = asyncio.create_task(operations.profile(ENDLESS, 0))
            await noted(channel, TIME_LINE)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            await ended(operations)
            assert channel.profile_level == NOTHING


async def test_nothing_is_noted_for_a_client_that_went_away_while_its_profile_began() -> None:
    async with profiled() as (operations, channel):
        await operations.snapshot()  # the machine's facts are there, so that the profile begins at once
        asked = asyncio.create_task(operations.profile(ENDLESS, 0))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        with pytest.raises(Unavailable, match="another profile"):  # it is still being begun
            await operations.profile(0.01, 0)
        await ended(operations)
        assert channel.profile_level == NOTHING
