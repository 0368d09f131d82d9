"""What one request has run the next ones take over: fewer positions, the same tokens, and nothing of what was lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest

from numoe.coordinator.requests.events import PromptProgress, Usage
from numoe.coordinator.requests.request import GenerationRequest
from numoe.protos.errors import WorkerLost
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import Sampling, Step
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens, lose_worker_at
from tests.coordinator.engine.serving import Answer, Gate, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS

BLOCK = LIMITS.block_positions
SYSTEM = tuple(range(1, 1 + 6 * BLOCK))  # a prompt that many requests begin with


def usage_of(got: Answer) -> Usage:
    return got.finished.usage


def check(got: Answer, asked: GenerationRequest, cached: int) -> None:
    assert got.tokens == expected_tokens(asked.prompt, asked.max_tokens or 0, ALL_IDS, asked.sampling)
    assert usage_of(got).cached_tokens == cached


@pytest.mark.parametrize(
    ("prompt", "cached"),
    [
        (SYSTEM, 6 * BLOCK - 1),  # the last token is run
        ((*SYSTEM, 7), 6 * BLOCK),
        ((*SYSTEM[: 3 * BLOCK], *range(90, 50, -1)), 3 * BLOCK),
        ((*SYSTEM[: 3 * BLOCK - 1], 200), 3 * BLOCK - 1),
        ((*SYSTEM[: 5 * BLOCK + 3], *range(90, 50, -1)), 5 * BLOCK + 3),
        (SYSTEM[: BLOCK + 1], BLOCK),
        (SYSTEM[:BLOCK], BLOCK - 1),
        (SYSTEM[:2], 1),
        (SYSTEM[:1], 0),
        ((9, *SYSTEM), 0),
    ],
)
@pytest.mark.parametrize("depth", [1, 3])
async def test_what_earlier_requests_ran_is_taken_over_as_far_as_they_began_alike(
    prompt: tuple[int, ...], cached: int, depth: int
) -> None:
    executor = FakeExecutor(ALL_IDS, depth=depth)
    first, second = request(SYSTEM, 5), request(prompt, 9, sampling=Sampling(temperature=1.0, seed=3))
    async with serving(executor) as engine:
        check(await answer(engine.submit(first)), first, 0)
        before = executor.positions_run()
        got = await answer(engine.submit(second))
        snapshot = engine.snapshot()
    check(got, second, cached)
    assert executor.positions_run() - before == len(prompt) - cached + 8
    assert (snapshot.sharing.cached_tokens, snapshot.prompt_tokens) == (cached, len(SYSTEM) + len(prompt) - cached)
    assert [event.done for event in got.events if isinstance(event, PromptProgress)][-1] == len(prompt)


async def test_an_answer_is_taken_over_by_the_conversation_that_goes_on() -> None:
    executor = FakeExecutor(ALL_IDS)
    async with serving(executor) as engine:
        first = await answer(engine.submit(request(SYSTEM, 40)))
        prompt = (*SYSTEM, *(token_id for token_id, _ in first.tokens), 5, 6, 7)
        asked = request(prompt, 5)
        check(await answer(engine.submit(asked)), asked, len(prompt) - 4)  # the last token drawn was never run


@pytest.mark.parametrize("depth", [1, 3])
async def test_a_part_of_a_block_is_taken_over_from_one_that_runs_of_several_the_longest(depth: int) -> None:
    """A block is copied as soon as it is full, or its request ended; whoever wrote it goes on undisturbed."""
    running, gate = request((*SYSTEM, 1), 60), Gate(number=12)
    executor = FakeExecutor(ALL_IDS, before_collect=gate, depth=depth)
    async with serving(executor) as engine:
        first = engine.submit(running)
        await gate.reached.wait()
        later = [request((*SYSTEM[: 2 * BLOCK], *SYSTEM[2 * BLOCK :][:own], 250), 20) for own in (3, 5, 0)]
        generations = [engine.submit(one) for one in later]
        gate.open()
        for one, generation in zip((running, *later), (first, *generations), strict=True):
            got = await answer(generation)
            check(got, one, usage_of(got).cached_tokens)
        check(await answer(engine.submit(later[0])), later[0], 2 * BLOCK + 3)
        longest = request((*SYSTEM[: 2 * BLOCK + 5], 250, 251, 251), 20)
        check(await answer(engine.submit(longest)), longest, 2 * BLOCK + 6)


async def test_a_request_that_runs_other_experts_takes_nothing_over() -> None:
    async with serving(FakeExecutor(ALL_IDS), smart_expert_reduction="1,0.5") as engine:
        cached = [
            usage_of(await answer(engine.submit(request(SYSTEM, 2, experts=experts)))).cached_tokens
            for experts in (None, ExpertReduction(2, 0.5), ExpertReduction(1, 0.5), ExpertReduction(2, 0.5))
        ]
    assert cached == [0, 0, len(SYSTEM) - 1, len(SYSTEM) - 1]


async def test_nothing_is_taken_over_where_that_is_off() -> None:
    executor = FakeExecutor(ALL_IDS)
    async with serving(executor, prefix_cache="off") as engine:
        for _ in range(2):
            check(await answer(engine.submit(request(SYSTEM, 2))), request(SYSTEM, 2), 0)
        together = [engine.submit(request(SYSTEM, 2)) for _ in range(3)]
        for generation in together:
            check(await answer(generation), request(SYSTEM, 2), 0)
        assert engine.snapshot().sharing.cached_blocks == 0
    assert executor.positions_run() == 5 * (len(SYSTEM) + 1)


@pytest.mark.parametrize("depth", [1, 3])
async def test_of_requests_that_come_at_once_one_runs_what_all_begin_with(depth: int) -> None:
    start = Gate(number=0)
    executor = FakeExecutor(ALL_IDS, before_collect=start, depth=depth)
    asked = [request((*SYSTEM, index, index), 12, sampling=Sampling(1.0, seed=index)) for index in range(6)]
    async with serving(executor) as engine:
        generations = [engine.submit(one) for one in asked]
        start.open()
        answers = await asyncio.gather(*map(answer, generations))
    for one, got in zip(asked, answers, strict=True):
        check(got, one, usage_of(got).cached_tokens)
    assert sorted(usage_of(got).cached_tokens for got in answers) == [0] + 5 * [len(SYSTEM)]
    assert executor.positions_run() == len(SYSTEM) + 6 * (2 + 11)


async def test_who_waits_for_another_ones_blocks_runs_them_itself_once_that_one_is_cancelled() -> None:
    start = Gate(number=1)
    executor = FakeExecutor(ALL_IDS, before_collect=start)
    async with serving(executor) as engine:
        first, second = engine.submit(request((*SYSTEM, 1), 5)), engine.submit(request((*SYSTEM, 2), 5))
        await start.reached.wait()
        first.cancel()
        start.open()
        got = await answer(second)
    check(got, request((*SYSTEM, 2), 5), usage_of(got).cached_tokens)
    assert 0 < usage_of(got).cached_tokens < len(SYSTEM)


async def test_what_was_evicted_is_run_again() -> None:
    executor = FakeExecutor(ALL_IDS, replace(LIMITS, kv_blocks=8))
    other = request(tuple(range(200, 100, -1)), 9)
    async with serving(executor) as engine:
        check(await answer(engine.submit(request(SYSTEM, 3))), request(SYSTEM, 3), 0)
        check(await answer(engine.submit(other)), other, 0)
        check(await answer(engine.submit(request(SYSTEM, 3))), request(SYSTEM, 3), BLOCK)  # one block was left
        assert engine.snapshot().sharing.evicted_blocks == 6 + 6  # the last ones, which were not full, too


@pytest.mark.parametrize("depth", [1, 2])
async def test_lost_workers_take_what_was_cached_with_them(depth: int) -> None:
    lose = lose_worker_at(30)
    executor = FakeExecutor(ALL_IDS, before_collect=lose, depth=depth)
    async with serving(executor) as engine:
        check(await answer(engine.submit(request(SYSTEM, 3))), request(SYSTEM, 3), 0)
        long = request((*SYSTEM, 9), 60)
        check(await answer(engine.submit(long)), long, len(SYSTEM))  # its blocks too: what they held is run again
        assert executor.restarts == 1
        check(await answer(engine.submit(request(SYSTEM, 3))), request(SYSTEM, 3), len(SYSTEM) - 1)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kv_blocks", [9, 14, 40])
@pytest.mark.parametrize("seed", range(6))
async def test_no_token_depends_on_what_is_shared_evicted_given_back_or_lost(
    seed: int, kv_blocks: int, depth: int
) -> None:
    """Texts that begin alike, in pools that are too small for all that are asked at once."""
    random, last = Random(seed), 0

    def lose(step: Step) -> None:
        nonlocal last
        if random.random() < 0.01 and step.number > last + 40:
            last = step.number
            raise WorkerLost("worker 0 died")

    executor = FakeExecutor(ALL_IDS, replace(LIMITS, kv_blocks=kv_blocks), before_collect=lose, depth=depth)
    asked = [
        request(
            (*SYSTEM[: random.randrange(80)], *(random.randrange(9) for _ in range(random.randrange(1, 20)))),
            random.randrange(1, 40),
            sampling=random.choice([Sampling(), Sampling(1.0, seed=seed), Sampling(1.0, repetition_penalty=1.3)]),
        )
        for _ in range(60)
    ]
    async with serving(executor) as engine:
        answers = await asyncio.gather(*[answer(engine.submit(one)) for one in asked])
        sharing = engine.snapshot().sharing
    for one, got in zip(asked, answers, strict=True):
        check(got, one, usage_of(got).cached_tokens)
    assert sharing.cached_tokens == sum(usage_of(got).cached_tokens for got in answers) > 0
