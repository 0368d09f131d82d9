"""The queue: when it is full, and in which order it is left."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from numoe.coordinator.requests.events import Accepted
from numoe.coordinator.requests.request import GenerationRequest, Priority
from numoe.protos.errors import (
    QueueFull,
    RequestCancelled,
)
from numoe.protos.messages import Step, StepLimits
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens
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


def named(name: int, **changes: Any) -> GenerationRequest:
    """A request whose first token tells it from the others."""
    return request((name, *range(100, 130)), 3, **changes)


def order(executor: FakeExecutor) -> list[int]:
    """The requests as they were begun, by name."""
    chunks = [chunk for step in executor.steps for chunk in step.chunks]
    return [int(chunk.token_ids[0]) for chunk in chunks if chunk.first_position == 0]


async def run_in_order(asked: list[GenerationRequest]) -> tuple[list[int], list[Accepted]]:
    """The names of requests that all wait before the first step ends, in the order in which they get the one slot."""
    start = Gate(number=0)
    executor = FakeExecutor(ALL_IDS, ONE_SLOT, start)
    async with serving(executor) as engine:
        generations = [engine.submit(one) for one in asked]
        start.open()
        answers = await asyncio.gather(*map(answer, generations))
    for one, got in zip(asked, answers, strict=True):
        assert got.tokens == expected_tokens(one.prompt, 3, ALL_IDS)
    accepted = [got.events[0] for got in answers]
    assert all(isinstance(event, Accepted) for event in accepted)
    return order(executor), [event for event in accepted if isinstance(event, Accepted)]


async def test_clients_take_turns_however_many_requests_of_one_of_them_wait() -> None:
    flood = [named(index, client="ipv4:10.0.0.1:4000") for index in range(12)]
    few = [named(20 + index, client=f"ipv4:10.0.0.2:{4000 + index}") for index in range(3)]
    keyed = [named(30 + index, client="ipv4:10.0.0.1:4000", key="another") for index in range(3)]
    begun, _ = await run_in_order([*flood, *few, *keyed])
    assert [name for name in begun if name < 20] == list(range(12))
    last = max(begun.index(name) for name in (20, 21, 22, 30, 31, 32))
    assert begun.index(20) < begun.index(21) < begun.index(22)
    assert last < len(begun) - 1
    assert sum(name < 20 for name in begun[:last]) <= 1 + 3 * (1 + 256 // 34)


async def test_batch_requests_wait_for_all_others() -> None:
    batch = [named(index, priority=Priority.BATCH) for index in range(1, 4)]
    others = [named(20 + index) for index in range(3)]
    begun, accepted = await run_in_order([named(0), *batch, *others])
    assert begun == [0, 20, 21, 22, 1, 2, 3]
    assert [event.queue_position for event in accepted] == [0, 1, 2, 3, 1, 2, 3]


async def test_a_batch_request_gives_its_slot_back_to_one_that_somebody_waits_for_and_loses_nothing() -> None:
    gate = Gate(number=10)
    executor = FakeExecutor(ALL_IDS, ONE_SLOT, gate)
    batch, urgent = request((1,), 40, priority=Priority.BATCH), request((2,), 5)
    async with serving(executor, prefix_cache="off") as engine:  # or it would go on with what it left
        slow = engine.submit(batch)
        await gate.reached.wait()
        fast = engine.submit(urgent)
        gate.open()
        assert (await answer(fast)).tokens == expected_tokens((2,), 5, ALL_IDS)
        assert (await answer(slow)).tokens == expected_tokens((1,), 40, ALL_IDS)
        assert engine.snapshot().sharing.preemptions == 1
        assert order(executor) == [1, 2, 1]
        later = engine.submit(replace(batch, prompt=(3,)))  # nor does one give way to its like
        assert (await answer(later)).tokens == expected_tokens((3,), 40, ALL_IDS)
    assert [len(step.chunks) for step in executor.steps] == [1] * len(executor.steps)


async def test_batch_requests_give_their_blocks_back_first_whenever_they_came() -> None:
    start = Gate(number=30)
    executor = FakeExecutor(ALL_IDS, replace(LIMITS, kv_blocks=8), start)
    async with serving(executor) as engine:
        first = engine.submit(request((1,), 100, priority=Priority.BATCH))
        await start.reached.wait()
        others = [engine.submit(request((2 + index,), 50)) for index in range(2)]
        start.open()
        for index, other in enumerate(others):
            assert (await answer(other)).tokens == expected_tokens((2 + index,), 50, ALL_IDS)
        assert (await answer(first)).tokens == expected_tokens((1,), 100, ALL_IDS)
        assert engine.snapshot().sharing.preemptions >= 1


def prompt_tokens(step: Step) -> int:
    return sum(len(chunk.token_ids) for chunk in step.chunks if len(chunk.token_ids) > 1)


@pytest.mark.parametrize(("prompts", "most"), [(1, 100), (4, 400)])
async def test_beside_a_stream_many_prompts_have_longer_steps_than_one(prompts: int, most: int) -> None:
    """A token of a prompt takes a hundredth of a step without prompts, which may be doubled for one of them."""
    begun, limits = Gate(number=5), StepLimits(512, 8, 4096, kv_blocks=1024, block_positions=16)
    executor = FakeExecutor(ALL_IDS, limits, begun)
    executor.seconds_of = lambda step: 0.1 + 0.001 * prompt_tokens(step)
    async with serving(executor) as engine:
        stream = engine.submit(request(PROMPT, 1000))
        await begun.reached.wait()
        waiting = [engine.submit(request((number, *range(300)) * 5, 1)) for number in range(prompts)]
        begun.open()
        await asyncio.gather(*map(answer, [stream, *waiting]))
    assert max(map(prompt_tokens, executor.steps[1:])) == pytest.approx(most, rel=0.03)
