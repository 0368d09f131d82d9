"""The queue: when it is full, and in which order it is left."""

from __future__ import annotations

import asyncio

import pytest

from numoe.protos.errors import (
    QueueFull,
    RequestCancelled,
)
from tests.coordinator.engine.fake_executor import FakeExecutor, expected_tokens
from tests.coordinator.engine.serving import ONE_SLOT, PROMPT, Gate, answer, both, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS


async def test_without_a_queue_a_free_slot_still_takes_a_request() -> None:
    gate = Gate(number=0)
    async with serving(FakeExecutor(ALL_IDS, ONE_SLOT, gate), queue_length=0) as engine:
        first = engine.submit(request(PROMPT))
        await gate.reached.wait()
        with pytest.raises(QueueFull):
            engine.submit(request(PROMPT))
        gate.open()
        assert (await answer(first)).finished


async def test_requests_are_admitted_in_the_order_they_came() -> None:
    executor = FakeExecutor(ALL_IDS, ONE_SLOT)
    async with serving(executor) as engine:
        await asyncio.gather(*[answer(engine.submit(request((index,), 3))) for index in range(20)])
    firsts = [chunk.token_ids[0] for step in executor.steps for chunk in step.chunks if chunk.first_position == 0]
    assert firsts == list(range(20))


async def test_a_cancelled_request_is_in_no_later_step_and_owns_no_block_there() -> None:
    start, gate = Gate(number=0), Gate(number=5)
    executor = FakeExecutor(ALL_IDS, before_collect=both(start, gate))
    async with serving(executor, prompt_slowdown=0.0) as engine:
        generation = engine.submit(request(PROMPT, 200))
        await start.reached.wait()
        other = engine.submit(request((8, 9), 20))
        start.open()
        await gate.reached.wait()
        generation.cancel()
        generation.cancel()
        got = await answer(generation)  # ends although the step is still in flight
        assert isinstance(got.error, RequestCancelled)
        gate.open()
        assert (await answer(other)).tokens == expected_tokens((8, 9), 20, ALL_IDS)
    assert [len(step.chunks) for step in executor.steps[:7]] == [1, 2, 2, 2, 2, 2, 1]
