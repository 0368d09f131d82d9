"""How likely the tokens of a prompt were is told of each of them, once, however it is run."""

from __future__ import annotations

from itertools import pairwise

import pytest

from numoe.coordinator.requests.events import PromptTokens
from numoe.coordinator.requests.repeats import Dry
from numoe.protos.messages import Sampling
from tests.coordinator.engine.fake_executor import FakeExecutor, absorb, expected_tokens, logprob_of, lose_worker_at
from tests.coordinator.engine.serving import Answer, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS, LETTERS

PROMPT = tuple(range(3, 48))


def expected_prompt(prompt: tuple[int, ...]) -> list[tuple[int, float]]:
    digest, expected = 0, []
    for token_id, following in pairwise(prompt):
        digest = absorb(digest, token_id)
        expected.append((following, logprob_of(digest)))
    return expected


def told_of(got: Answer) -> list[tuple[int, float]]:
    parts = [event.draws for event in got.events if isinstance(event, PromptTokens)]
    return [(draw.token_id, draw.logprob) for draws in parts for draw in draws]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("lost", [(), (3,), (9,)], ids=["nothing lost", "in the prompt", "behind it"])
async def test_each_token_but_the_first_is_told_of_once(lost: tuple[int, ...], depth: int) -> None:
    """A step has eight rows of logits; others take theirs of them."""
    executor = FakeExecutor(ALL_IDS[:300], before_collect=lose_worker_at(*lost), depth=depth)
    async with serving(executor) as engine:
        asked = request(PROMPT, 12, prompt_logprobs=True, top_logprobs=2, sampling=Sampling(1.0, seed=3))
        free = [engine.submit(request((5, seed), 20, sampling=Sampling(1.0, seed=seed))) for seed in range(3)]
        got = await answer(engine.submit(asked))
        others = [await answer(one) for one in free]
    assert told_of(got) == expected_prompt(PROMPT)
    assert got.tokens == expected_tokens(PROMPT, 12, ALL_IDS[:300], Sampling(1.0, seed=3))
    for seed, other in enumerate(others):
        assert other.tokens == expected_tokens((5, seed), 20, ALL_IDS[:300], Sampling(1.0, seed=seed))
        assert told_of(other) == []
    [draw, *_] = next(event.draws for event in got.events if isinstance(event, PromptTokens))
    assert draw.alternatives == ((0, 0.0), (1, -1.0))


async def test_a_prompt_of_one_token_has_nothing_to_tell() -> None:
    async with serving(FakeExecutor(LETTERS)) as engine:
        got = await answer(engine.submit(request((7,), 5, prompt_logprobs=True)))
    assert told_of(got) == []
    assert got.tokens == expected_tokens((7,), 5, LETTERS)


async def test_what_would_repeat_is_told_to_the_workers() -> None:
    executor = FakeExecutor(LETTERS[:1])
    async with serving(executor) as engine:
        await answer(engine.submit(request((9,), 6, dry=Dry(1.0, 2.0, 2))))
    draws = [chunk.biases for step in executor.steps for chunk in step.chunks]
    assert [biases.repeats for biases in draws] == [0, 0, 0, 1, 1, 1]
    assert [biases.values[-1] for biases in draws[3:]] == [-1.0, -2.0, -4.0]
