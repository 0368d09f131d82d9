"""Several steps under way at once, as hosts that run a part of each have them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import numpy as np
import pytest

from numoe.coordinator.engine.scheduling.scheduler import RunningSequence, SchedulerState, schedule
from numoe.protos.errors import DeadlineExceeded
from numoe.protos.messages import Chunk, Sampling, Step, StepResult
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens
from tests.coordinator.engine.serving import PROMPT, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS


class Pipeline(FakeExecutor):
    """Notes how many steps were under way when one was collected."""

    def __init__(self, depth: int) -> None:
        super().__init__(ALL_IDS, depth=depth)
        self.under_way: list[int] = []

    def collect(self, timeout_seconds: float) -> StepResult:
        self.under_way.append(len(self._in_flight))
        return super().collect(timeout_seconds)


def test_each_step_takes_its_share_of_the_sequences() -> None:
    running = [RunningSequence(1) for _ in range(7)]
    first = schedule(SchedulerState(running, [], 7), LIMITS, 32, depth=3)
    assert [chunk.sequence for chunk in first.chunks] == [0, 1, 2]
    running[:3] = [RunningSequence(0)] * 3
    second = schedule(SchedulerState(running, [], 7), LIMITS, 32, depth=3)
    assert [chunk.sequence for chunk in second.chunks] == [3, 4, 5]


async def test_all_hosts_work_once_there_are_requests_enough() -> None:
    executor = Pipeline(depth=4)
    async with serving(executor) as engine:
        generations = [engine.submit(request((index,), 40)) for index in range(8)]
        answers = await asyncio.gather(*[answer(each) for each in generations])
    assert [got.tokens for got in answers] == [expected_tokens((index,), 40, ALL_IDS) for index in range(8)]
    assert Counter(executor.under_way).most_common(1)[0][0] == 4
    assert max(len(step.chunks) for step in executor.steps[20:]) == 2


async def test_a_prompt_alone_keeps_all_hosts_at_work_and_one_stream_one_of_them() -> None:
    executor = Pipeline(depth=3)
    prompt = tuple(range(1, 129))
    async with serving(executor) as engine:
        got = await answer(engine.submit(request(prompt, 20)))
    assert got.tokens == expected_tokens(prompt, 20, ALL_IDS)
    chunks = len(prompt) // LIMITS.step_tokens
    assert executor.under_way == [3] * (chunks - 2) + [2] + [1] * 20


@pytest.mark.parametrize("depth", [2, 3])
async def test_who_leaves_keeps_its_blocks_until_its_step_is_done(depth: int) -> None:
    """The executor refuses a step with blocks of another one that is under way."""
    executor = Pipeline(depth)
    executor.before_collect = lambda step: time.sleep(0.001)
    async with serving(executor) as engine:
        for round_ in range(6):
            leaving = [engine.submit(request((index, round_), 60)) for index in range(4)]
            late = engine.submit(request(PROMPT, 200, deadline=time.monotonic() + 0.02))
            staying = engine.submit(request(PROMPT, 30))
            for generation in leaving:
                await anext(event async for event in generation)
                generation.abort()
            assert (await answer(staying)).tokens == expected_tokens(PROMPT, 30, ALL_IDS)
            assert isinstance((await answer(late)).error, DeadlineExceeded)


def test_a_step_that_runs_blocks_of_another_under_way_is_refused_by_the_tests_executor() -> None:
    """What the test above stands on."""
    executor = FakeExecutor(ALL_IDS, depth=2)
    table = np.array([3], np.int32)
    executor.submit(Step(0, (Chunk(0, np.array([1, 2], np.int32), table, Sampling()),)))
    with pytest.raises(AssertionError, match="before the one"):
        executor.submit(Step(1, (Chunk(2, np.array([5], np.int32), table, Sampling()),)))
