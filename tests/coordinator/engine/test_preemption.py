"""Requests that nobody reserved all blocks for: more at once, and who must give its own back is answered as ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from numoe.coordinator.engine.state import RequestPhase
from numoe.coordinator.requests.events import PromptProgress, Resumed
from numoe.coordinator.requests.generation import Generation
from numoe.protos.messages import Sampling, Step
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens, lose_worker_at
from tests.coordinator.engine.serving import Gate, answer, both, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS

SMALL = replace(LIMITS, kv_blocks=8)  # 128 positions


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("lost", [(), (70,)], ids=["undisturbed", "workers lost"])
async def test_more_requests_than_fit_begin_and_all_end_with_their_own_tokens(
    lost: tuple[int, ...], depth: int
) -> None:
    start = Gate(number=0)
    executor = FakeExecutor(ALL_IDS, SMALL, both(start, lose_worker_at(*lost)), depth=depth)
    asked = [request((index, 7, 8), 100, sampling=Sampling(1.0, seed=index)) for index in range(4)]
    async with serving(executor) as engine:
        generations = [engine.submit(one) for one in asked]
        start.open()
        answers = await asyncio.gather(*map(answer, generations))
        sharing = engine.snapshot().sharing
    for one, got in zip(asked, answers, strict=True):
        assert got.tokens == expected_tokens(one.prompt, 100, ALL_IDS, one.sampling)
        assert [event.done for event in got.events if isinstance(event, PromptProgress)] == [3]
        assert bool(lost) or not any(isinstance(event, Resumed) for event in got.events)
    assert sharing.preemptions > 0
    assert engine.counts.tokens_run_again > 0
    assert engine.snapshot().prompt_tokens == 4 * 3
    assert max(len(step.chunks) for step in executor.steps) * depth >= 4


async def test_who_was_admitted_first_runs_in_every_step() -> None:
    start = Gate(number=0)
    executor = FakeExecutor(ALL_IDS, SMALL, start)
    async with serving(executor) as engine:
        generations = [engine.submit(request((index,), 120)) for index in range(3)]
        start.open()
        await asyncio.gather(*map(answer, generations))
        assert engine.snapshot().sharing.preemptions > 0
    assert [step.chunks[0].first_position for step in executor.steps[:120]] == list(range(120))


async def test_one_that_gave_its_blocks_back_waits_in_front_of_those_that_came_later() -> None:
    start, seen, ended = Gate(number=0), set[RequestPhase](), list[int]()

    def look(step: Step) -> None:
        start(step)
        seen.update(status.phase for status in engine.requests()[1:2])

    async def note_end(index: int, generation: Generation) -> None:
        await answer(generation)
        ended.append(index)

    executor = FakeExecutor(ALL_IDS, replace(SMALL, sequences=2), before_collect=look)
    async with serving(executor) as engine:
        generations = [engine.submit(request((index,), 110)) for index in range(4)]
        start.open()
        await asyncio.gather(*[note_end(index, one) for index, one in enumerate(generations)])
        assert engine.snapshot().sharing.preemptions > 0
    assert ended == [0, 1, 2, 3]
    assert RequestPhase.RESUMING in seen
