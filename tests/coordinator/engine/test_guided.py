"""Answers obey their grammars, with everybody else's going on, and after workers were lost too."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from numoe.coordinator.constraints.guides import Guides
from numoe.coordinator.requests.constraint import Constraint, Grammar, Guide
from numoe.coordinator.requests.events import Failed, FinishReason
from numoe.coordinator.requests.thought import ThoughtTokens
from numoe.protos.errors import InvalidRequest
from numoe.protos.messages import Sampling
from tests.coordinator.engine.fake_executor import FakeExecutor, expected_tokens, lose_worker_at
from tests.coordinator.engine.serving import PROMPT, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS, LETTERS, TOKENIZER

GUIDES = Guides(TOKENIZER)
(OPEN,), (CLOSE,) = TOKENIZER.encode("<think>"), TOKENIZER.encode("</think>")
ENDING = (*TOKENIZER.encode("\n"), CLOSE, *TOKENIZER.encode("\n"))
THINKING = (*LETTERS, *TOKENIZER.encode("0123456789."), OPEN, CLOSE)  # tokens of thoughts and of what follows them
NUMBER = Constraint(Grammar.REGEX, r"[1-9][0-9]{5}\.[0-9]{3}")
PAIR = Constraint(Grammar.JSON_SCHEMA, json.dumps({
    "type": "object", "properties": {"a": {"enum": [1, 22, 333]}, "b": {"type": "boolean"}},
    "required": ["a", "b"], "additionalProperties": False, "x-guidance": {"whitespace_flexible": False},
}))  # fmt: skip


async def guide_of(constraint: Constraint) -> Guide:
    return await GUIDES.compile(constraint)


@pytest.mark.parametrize("ignore_eos", [False, True])
async def test_an_answer_is_what_the_grammar_describes_and_ends_with_it(ignore_eos: bool) -> None:
    async with serving(FakeExecutor(ALL_IDS)) as engine:
        for seed in range(5):
            asked = request(PROMPT, 100, ignore_eos=ignore_eos, sampling=Sampling(1.0, seed=seed), constraint=NUMBER)
            got = await answer(engine.submit(asked, await guide_of(NUMBER)))
            assert re.fullmatch(NUMBER.text, got.text)
            assert (got.finished.reason, got.finished.stop_match) == (FinishReason.STOP, None)
            made = await answer(engine.submit(replace(asked, constraint=PAIR), await guide_of(PAIR)))
            assert json.loads(made.text)["a"] in (1, 22, 333)


async def test_an_end_token_ends_an_answer_that_could_go_on() -> None:
    plus = Constraint(Grammar.REGEX, "[a-e]+")
    async with serving(FakeExecutor((*LETTERS, *TOKENIZER.end_ids))) as engine:
        got = await answer(engine.submit(request(PROMPT, 100, ignore_eos=False), await guide_of(plus)))
        assert got.finished.stop_match in TOKENIZER.end_ids
        assert re.fullmatch("[a-e]+", got.text)
        full = await answer(engine.submit(request(PROMPT, 7), await guide_of(plus)))
        assert (full.finished.reason, full.finished.usage.completion_tokens) == (FinishReason.LENGTH, 7)


async def test_others_draw_what_they_would_have_drawn() -> None:
    async with serving(FakeExecutor(LETTERS)) as engine:
        guided = engine.submit(request(PROMPT, 30), await guide_of(Constraint(Grammar.REGEX, "[ab]{30}")))
        free = engine.submit(request(PROMPT, 30))
        assert set((await answer(guided)).text) <= {"a", "b"}
        assert (await answer(free)).tokens == expected_tokens(PROMPT, 30, LETTERS)


@pytest.mark.parametrize("depth", [1, 2])
async def test_after_workers_were_lost_an_answer_goes_on_where_its_grammar_was(depth: int) -> None:
    found = []
    for lost in ((), (3,), (1, 5, 7)):
        async with serving(FakeExecutor(ALL_IDS, before_collect=lose_worker_at(*lost), depth=depth)) as engine:
            asked = request(PROMPT, 100, sampling=Sampling(1.0, seed=4))
            got = await answer(engine.submit(asked, await guide_of(NUMBER)))
            found.append((got.text, got.tokens))
    assert found[0] == found[1] == found[2]


def spelled(tokens: list[tuple[int, float]]) -> str:
    return b"".join(TOKENIZER.token_bytes(token) for token, _ in tokens).decode()


@pytest.mark.parametrize("lost", [(), (2, 9)])
async def test_a_grammar_begins_where_the_thought_ends_that_the_prompt_has_opened(lost: tuple[int, ...]) -> None:
    """The thought is what it would be without a grammar, but that no end ends it."""
    thought = ThoughtTokens(OPEN, CLOSE, opened=True)
    executor = FakeExecutor((*THINKING, *TOKENIZER.end_ids), before_collect=lose_worker_at(*lost))
    async with serving(executor) as engine:
        for seed in range(5):
            sampling = Sampling(1.0, seed=seed)
            asked = request(PROMPT, 240, ignore_eos=False, sampling=sampling, thought=thought)
            got = await answer(engine.submit(replace(asked, constraint=NUMBER), await guide_of(NUMBER)))
            end = [token for token, _ in got.tokens].index(CLOSE) + 1
            assert got.tokens[:end] == expected_tokens(PROMPT, end, THINKING, sampling)
            assert re.fullmatch(NUMBER.text, spelled(got.tokens[end:]))
            assert got.finished.reason is FinishReason.STOP


async def test_a_grammar_begins_behind_the_end_that_is_put_to_a_thought() -> None:
    thought = ThoughtTokens(OPEN, CLOSE, opened=True, most=4, ending=ENDING)
    async with serving(FakeExecutor((*LETTERS, *TOKENIZER.encode("0123456789.")))) as engine:
        got = await answer(engine.submit(request(PROMPT, 100, thought=thought), await guide_of(NUMBER)))
    assert tuple(token for token, _ in got.tokens[4 : 4 + len(ENDING)]) == ENDING
    assert re.fullmatch(NUMBER.text, spelled(got.tokens[4 + len(ENDING) :]))


async def test_where_no_thought_is_opened_an_answer_begins_with_one_or_with_its_form() -> None:
    thought, one = ThoughtTokens(OPEN, CLOSE, opened=False), Constraint(Grammar.REGEX, "1[0-9]{3}")
    thoughts = 0
    async with serving(FakeExecutor(THINKING)) as engine:
        for seed in range(12):
            asked = request(PROMPT, 240, sampling=Sampling(1.0, seed=seed), thought=thought)
            got = await answer(engine.submit(asked, await guide_of(one)))
            ids = [token for token, _ in got.tokens]
            thoughts += ids[0] == OPEN
            end = ids.index(CLOSE) + 1 if ids[0] == OPEN else 0
            assert re.fullmatch(one.text, spelled(got.tokens[end:]))
    assert 0 < thoughts < 12


async def test_a_grammar_that_allows_no_token_ends_its_request_and_nobody_elses() -> None:
    async with serving(FakeExecutor(ALL_IDS)) as engine:
        [zero] = TOKENIZER.encode("0")
        never = request(PROMPT, 30, logit_bias=((zero, -float("inf")),))
        stuck = engine.submit(never, await guide_of(Constraint(Grammar.REGEX, "a0b")))
        free = engine.submit(request(PROMPT, 30))
        end = (await answer(stuck)).end
        assert (await answer(free)).tokens == expected_tokens(PROMPT, 30, ALL_IDS)
    assert isinstance(end, Failed)
    assert isinstance(end.error, InvalidRequest)
    assert str(end.error) == "guided: the grammar came to an end after 1 tokens: no token continues what it allows"
