"""Whatever is guessed and run beside known tokens, right or wrong: every answer is what it would have been without."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from numoe.coordinator.requests.events import Finished
from numoe.coordinator.requests.repeats import Dry
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.requests.thought import ThoughtTokens
from numoe.protos.errors import LogitsNotFinite, WorkerLost
from numoe.protos.messages import NOT_DRAWN, Sampling, Step, StepResult
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens
from tests.coordinator.engine.serving import Answer, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS, END_ID, LETTERS

TWO = LETTERS[:2]  # so few letters that what was before comes again, half of the times
THOUGHT = ThoughtTokens(LETTERS[0], LETTERS[3], opened=True, most=12, ending=(LETTERS[4], LETTERS[3]))


def many_requests(random: Random) -> list[GenerationRequest]:
    """All that may end an answer, and change what is drawn, between two tokens of one step."""
    kinds: list[dict[str, Any]] = [
        {},
        {"sampling": Sampling(1.0, seed=random.randrange(99))},
        {"stop": ("abba", "bbbbb")},
        {"stop_token_ids": frozenset({END_ID}), "min_tokens": 20, "ignore_eos": False},
        {"sampling": Sampling(0.7, seed=5), "stop": ("ab" * 4,), "min_tokens": 17, "include_stop": True},
        {"thought": THOUGHT},
        {"thought": replace(THOUGHT, opened=False), "sampling": Sampling(1.0, seed=8)},
        {"top_logprobs": 3},
        {"sampling": Sampling(1.0, seed=2, repetition_penalty=1.2)},
        {"dry": Dry(1.0, 2.0, 2)},
        {"prompt_logprobs": True},
    ]
    return [
        request(tuple(random.choices(TWO, k=random.randrange(1, 50))), random.randrange(20, 90), **kind)
        for kind in random.sample(kinds, len(kinds))
    ]


def told(got: Answer) -> tuple[object, ...]:
    """What a client is told, but for times and guesses."""
    end = got.finished
    usage = replace(end.usage, drafted_tokens=0, accepted_tokens=0, cached_tokens=0, saved_bytes=0)
    alternatives = [event.alternatives for event in got.events if hasattr(event, "alternatives")]
    return got.tokens, got.text, sum(alternatives, ()), end.reason, end.stop_match, usage


async def answers_of(executor: FakeExecutor, asked: list[GenerationRequest], speculate: str) -> list[Answer]:
    async with serving(executor, speculate=speculate) as engine:
        answers = await asyncio.gather(*[answer(engine.submit(one)) for one in asked])
        usages = [got.finished.usage for got in answers]
        assert engine.counts.drafted_tokens == sum(usage.drafted_tokens for usage in usages)
        assert engine.counts.accepted_tokens == sum(usage.accepted_tokens for usage in usages)
    return answers


@pytest.mark.parametrize("kv_blocks", [64, 12], ids=["room", "few blocks"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("seed", range(6))
async def test_answers_are_those_without_guesses(seed: int, depth: int, kv_blocks: int) -> None:
    """Beside each other, where workers are lost, and where requests give their blocks back."""
    random, last = Random(seed), 0
    alphabet, asked = [*TWO, END_ID] if seed % 2 else TWO, many_requests(random)

    def lose(step: Step) -> None:
        nonlocal last
        if seed % 3 == 0 and random.random() < 0.1 and step.number > last + 20:
            last = step.number
            raise WorkerLost("worker 0 died")

    limits = replace(LIMITS, kv_blocks=kv_blocks)
    expected = await answers_of(FakeExecutor(alphabet), asked, "off")
    executor = FakeExecutor(alphabet, limits, before_collect=lose, depth=depth)
    answers = await answers_of(executor, asked, "auto")
    assert [told(got) for got in answers] == [told(got) for got in expected]
    assert sum(got.finished.usage.drafted_tokens for got in expected) == 0
    for one, got in zip(asked, answers, strict=True):
        usage = got.finished.usage
        assert 0 <= usage.accepted_tokens <= min(usage.drafted_tokens, usage.completion_tokens)
        if one.sampling.penalises or one.dry or one.prompt_logprobs:
            assert usage.drafted_tokens == 0
    assert sum(got.finished.usage.accepted_tokens for got in answers) > 0


async def test_a_text_that_repeats_itself_takes_fewer_steps() -> None:
    executor = FakeExecutor(LETTERS[:1])
    async with serving(executor) as engine:
        got = await answer(engine.submit(request(LETTERS[:1] * 20, 100)))
    assert got.tokens == expected_tokens(LETTERS[:1] * 20, 100, LETTERS[:1])
    usage = got.finished.usage
    assert usage.drafted_tokens == usage.accepted_tokens == 100 - len(executor.steps)
    assert len(executor.steps) < 30


async def test_a_text_that_repeats_nothing_has_no_guesses_run() -> None:
    executor = FakeExecutor(ALL_IDS)
    async with serving(executor) as engine:
        got = await answer(engine.submit(request(ALL_IDS[:100], 150, sampling=Sampling(1.0, seed=4))))
    assert (got.finished.usage.drafted_tokens, len(executor.steps)) == (0, 4 + 149)


async def test_blocks_that_others_take_over_hold_nothing_of_wrong_guesses() -> None:
    """The executor draws from what the blocks hold."""
    prompt = TWO * 8
    async with serving(FakeExecutor(TWO)) as engine:
        first = await answer(engine.submit(request(prompt, 100)))
        so_far = (*prompt, *[token_id for token_id, _ in first.tokens])
        second = await answer(engine.submit(request(so_far, 60)))
    assert first.finished.usage.drafted_tokens > first.finished.usage.accepted_tokens > 0
    assert second.finished.usage.cached_tokens >= len(so_far) - 2 * LIMITS.block_positions
    assert second.tokens == expected_tokens(so_far, 60, TWO)


class OverflowsAt(FakeExecutor):
    """Draws nothing for one position."""

    def __init__(self, position: int) -> None:
        super().__init__(LETTERS[:1])
        self._overflows = position

    def collect(self, timeout_seconds: float) -> StepResult:
        [chunk] = self._in_flight[0][0].chunks
        result = super().collect(timeout_seconds)
        row = self._overflows - (chunk.first_position + len(chunk.token_ids) + 1 - chunk.draws)
        if 0 <= row < len(result.token_ids):
            result.token_ids[row], result.logprobs[row] = NOT_DRAWN, np.nan
        return result


@pytest.mark.parametrize("position", range(60, 72))
async def test_numbers_that_overflow_behind_guesses_end_a_request_where_they_would_have(position: int) -> None:
    ends = []
    for speculate in ("off", "auto"):
        executor = OverflowsAt(position)
        async with serving(executor, speculate=speculate) as engine:
            got = await answer(engine.submit(request(LETTERS[:1] * 20, 100)))
        assert isinstance(got.error, LogitsNotFinite)
        ends.append((got.tokens, str(got.error)))
    assert ends[0] == ends[1]
    assert len(ends[0][0]) == position - 20
    assert len(executor.steps) < position - 20  # guesses were run


async def test_guesses_take_no_rows_that_streams_need() -> None:
    """The executor refuses steps with more rows of logits than it has."""
    executor = FakeExecutor(LETTERS[:1], replace(LIMITS, sequences=4))
    async with serving(executor) as engine:
        answers = await asyncio.gather(*[answer(engine.submit(request(LETTERS[:1] * 5, 60))) for _ in range(6)])
    assert all(isinstance(got.end, Finished) and len(got.tokens) == 60 for got in answers)
    rows = [sum(chunk.draws for chunk in step.chunks) for step in executor.steps]
    assert max(rows) == 4
    assert any(len(step.chunks) < row for step, row in zip(executor.steps, rows, strict=True))
