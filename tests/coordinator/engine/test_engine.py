"""What a client gets: the right tokens, the right text, the right end, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import numpy as np
import pytest

from numoe.coordinator.requests.events import Accepted, Delta, FinishReason, PromptProgress, Usage
from numoe.coordinator.requests.request import GenerationRequest
from numoe.protos.errors import InvalidRequest, LogitsNotFinite
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import NOT_DRAWN, Sampling, Step, StepResult
from tests.coordinator.engine.fake_executor import EXPERTS_RUN, LIMITS, FakeExecutor, expected_tokens
from tests.coordinator.engine.serving import EXPERTS, PROMPT, Gate, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS, END_ID, LETTERS, TOKENIZER, text_of

LETTER_TOKENS = [token_id for token_id, _ in expected_tokens(PROMPT, 60, LETTERS)]
LETTER_TEXT = text_of(LETTER_TOKENS)


def _mixed_requests(count: int) -> list[GenerationRequest]:
    chooser = random.Random(7)
    requests = []
    for index in range(count):
        prompt = tuple(chooser.choices(ALL_IDS, k=chooser.choice((1, 2, 15, 16, 17, 40, 120))))
        sampling = Sampling(temperature=chooser.choice((0.0, 0.8)), seed=index)
        requests.append(request(prompt, chooser.randint(1, 40), sampling=sampling))
    return requests


@pytest.mark.parametrize(("prefill_chunk", "depth"), [(None, 1), (7, 1), (1, 1), (None, 2), (7, 3)])
async def test_tokens_do_not_depend_on_batch_mates_nor_on_the_chunk_size(prefill_chunk: int | None, depth: int) -> None:
    requests = _mixed_requests(40)
    executor = FakeExecutor(ALL_IDS, depth=depth)
    async with serving(executor, prefill_chunk=prefill_chunk) as engine:
        answers = await asyncio.gather(*[answer(engine.submit(each)) for each in requests])
    cached = 0
    for asked, got in zip(requests, answers, strict=True):
        budget = asked.max_tokens or 0
        expected = expected_tokens(asked.prompt, budget, ALL_IDS, asked.sampling)
        assert got.tokens == expected
        assert got.text == text_of([token_id for token_id, _ in expected])
        left_out = EXPERTS.layers * EXPERTS.active - EXPERTS_RUN
        usage = got.finished.usage
        saved = 100 * left_out * (len(asked.prompt) + budget - 1 - usage.cached_tokens)
        mean = EXPERTS_RUN / EXPERTS.layers
        assert usage == Usage(len(asked.prompt), budget, mean, saved, cached_tokens=usage.cached_tokens)
        cached += usage.cached_tokens
        assert (got.finished.reason, got.finished.stop_match) == (FinishReason.LENGTH, None)
    # Each position ran once: the prompt's, and those of all drawn tokens but the last; none that others had run alike.
    assert executor.positions_run() == sum(len(each.prompt) + (each.max_tokens or 0) - 1 for each in requests) - cached
    assert cached <= len(requests)  # by chance


async def test_prefills_and_decodes_share_steps() -> None:
    executor = FakeExecutor(ALL_IDS)
    async with serving(executor, prefill_chunk=7) as engine:
        await asyncio.gather(*[answer(engine.submit(each)) for each in _mixed_requests(12)])
    mixed = [
        step
        for step in executor.steps
        if any(chunk.first_position > 0 and chunk.sampling and len(chunk.token_ids) == 1 for chunk in step.chunks)
        and any(len(chunk.token_ids) > 1 for chunk in step.chunks)
    ]
    assert mixed


async def test_events_come_in_order_with_rising_progress() -> None:
    async with serving(FakeExecutor(ALL_IDS), prefill_chunk=7) as engine:
        got = await answer(engine.submit(request(tuple(range(20)), 5)))
    kinds = [type(event) for event in got.events]
    assert got.events[0] == Accepted(0, 0.0)
    assert kinds.index(Delta) > max(index for index, kind in enumerate(kinds) if kind is PromptProgress)
    done = [event.done for event in got.events if isinstance(event, PromptProgress)]
    assert done == sorted(set(done))
    assert done[-1] == 20
    assert set(done) <= {7, 14, 20}
    assert {event.total for event in got.events if isinstance(event, PromptProgress)} == {20}


async def test_a_step_is_sent_first_and_the_text_of_the_last_one_delivered_while_it_computes() -> None:
    sending, computing = Gate(number=1), Gate(number=1)

    class HoldsSubmit(FakeExecutor):
        def submit(self, step: Step) -> None:
            sending(step)
            super().submit(step)

    async with serving(HoldsSubmit(LETTERS, before_collect=computing)) as engine:
        generation = engine.submit(request(PROMPT, 3))
        await sending.reached.wait()
        assert [generation.mailbox.take(), generation.mailbox.take()] == [Accepted(0, 0.0), None]
        sending.open()
        assert [type(await anext(generation)) for _ in range(2)] == [PromptProgress, Delta]
        await computing.reached.wait()
        assert engine.snapshot().generated_tokens == 1
        computing.open()
        assert len((await answer(generation)).tokens) == 2


async def test_timings_add_up_and_speeds_follow_from_them() -> None:
    async with serving(FakeExecutor(ALL_IDS)) as engine:
        timings = (await answer(engine.submit(request(tuple(range(20)), 5)))).finished.timings
        single = (await answer(engine.submit(request(tuple(range(20)), 1)))).finished.timings
    assert timings.queue_milliseconds >= 0
    assert timings.prefill_tokens_per_second == pytest.approx(20e3 / timings.prefill_milliseconds)
    assert timings.decode_tokens_per_second == pytest.approx(4e3 / timings.decode_milliseconds)
    assert (single.decode_milliseconds, single.decode_tokens_per_second) == (0, 0)


@pytest.mark.parametrize("include_stop", [False, True])
async def test_a_stop_string_ends_the_text_and_no_step_is_run_in_vain(include_stop: bool) -> None:
    stop = LETTER_TEXT[10:13]
    at = LETTER_TEXT.index(stop)
    executor = FakeExecutor(LETTERS)
    async with serving(executor) as engine:
        got = await answer(engine.submit(request(PROMPT, 60, stop=("never", stop), include_stop=include_stop)))
    assert got.text == LETTER_TEXT[: at + 3 if include_stop else at]
    assert (got.finished.reason, got.finished.stop_match) == (FinishReason.STOP, stop)
    assert got.finished.usage.completion_tokens == at + 3 == len(got.tokens)
    assert executor.positions_run() == len(PROMPT) + at + 2


async def test_what_was_held_back_for_a_stop_string_is_given_out_at_the_end() -> None:
    stop = LETTER_TEXT[18:20] + "!"
    async with serving(FakeExecutor(LETTERS)) as engine:
        got = await answer(engine.submit(request(PROMPT, 20, stop=(stop,))))
    assert got.text == LETTER_TEXT[:20]
    assert got.finished.reason is FinishReason.LENGTH


@pytest.mark.parametrize("include_stop", [False, True])
async def test_a_stop_token_ends_the_request(include_stop: bool) -> None:
    stop_id = LETTER_TOKENS[6]
    at = LETTER_TOKENS.index(stop_id)
    async with serving(FakeExecutor(LETTERS)) as engine:
        asked = request(PROMPT, 60, stop_token_ids=frozenset({stop_id}), include_stop=include_stop)
        got = await answer(engine.submit(asked))
    assert got.text == LETTER_TEXT[: at + include_stop]
    assert [token_id for token_id, _ in got.tokens] == LETTER_TOKENS[: at + 1]
    assert (got.finished.reason, got.finished.stop_match) == (FinishReason.STOP, stop_id)


async def test_an_end_token_ends_the_request_unless_it_is_ignored() -> None:
    alphabet = (*LETTERS, END_ID)
    drawn = [token_id for token_id, _ in expected_tokens(PROMPT, 60, alphabet)]
    at = drawn.index(END_ID)
    async with serving(FakeExecutor(alphabet)) as engine:
        ended = await answer(engine.submit(request(PROMPT, 60, ignore_eos=False)))
        ignored = await answer(engine.submit(request(PROMPT, 60)))
    assert (ended.finished.reason, ended.finished.stop_match) == (FinishReason.STOP, END_ID)
    assert ended.finished.usage.completion_tokens == at + 1
    assert ended.text == text_of(drawn[:at])
    assert ignored.tokens == expected_tokens(PROMPT, 60, LETTERS)  # it is not even drawn


async def test_nothing_but_the_length_ends_a_request_before_min_tokens() -> None:
    stop_id = LETTER_TOKENS[20]
    assert stop_id in LETTER_TOKENS[:20]
    async with serving(FakeExecutor(LETTERS)) as engine:
        by_string = await answer(engine.submit(request(PROMPT, 60, stop=(LETTER_TEXT[20],), min_tokens=21)))
        asked = request(PROMPT, 60, stop_token_ids=frozenset({stop_id}), min_tokens=21)
        by_token = await answer(engine.submit(asked))
    assert by_string.finished.usage.completion_tokens == 21
    assert by_string.text == LETTER_TEXT[:20]
    drawn = [token_id for token_id, _ in by_token.tokens]
    assert drawn.index(stop_id) == len(drawn) - 1 >= 20
    assert by_token.finished.stop_match == stop_id


async def test_without_max_tokens_a_request_runs_to_the_end_of_the_context() -> None:
    async with serving(FakeExecutor(ALL_IDS)) as engine:
        got = await answer(engine.submit(request(PROMPT, None)))
    usage = got.finished.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, LIMITS.context_tokens - 3)
    assert got.finished.reason is FinishReason.LENGTH


async def test_penalties_see_the_distinct_tokens_and_how_often_each_was_drawn() -> None:
    prompt = (LETTERS[0], 9, 9, LETTERS[1])
    executor = FakeExecutor(LETTERS)
    async with serving(executor, prefill_chunk=3) as engine:
        got = await answer(engine.submit(request(prompt, 12, sampling=Sampling(frequency_penalty=0.5))))
    drawn = [token_id for token_id, _ in got.tokens]
    last = executor.steps[-1].chunks[0]
    counts = dict(zip(last.seen_tokens.tolist(), last.seen_counts.tolist(), strict=True))
    assert counts == {token_id: drawn[:-1].count(token_id) for token_id in {*prompt, *drawn[:-1]}}
    assert executor.steps[0].chunks[0].sampling is None


class NotFinite(FakeExecutor):
    """Draws nothing for the sequence that a given seed names, from a given position on."""

    def __init__(self, seed: int, position: int, depth: int) -> None:
        super().__init__(LETTERS, depth=depth)
        self._place = (seed, position)

    def collect(self, timeout_seconds: float) -> StepResult:
        step, _ = self._in_flight[0]
        result = super().collect(timeout_seconds)
        drawn = [chunk for chunk in step.chunks if chunk.sampling is not None]
        for index, chunk in enumerate(drawn):
            assert chunk.sampling is not None
            if (chunk.sampling.seed, chunk.first_position + len(chunk.token_ids)) == self._place:
                result.token_ids[index], result.logprobs[index] = NOT_DRAWN, np.nan
                if step.checked:
                    assert len(drawn) == 1
                    return replace(result, not_finite=2 + 2 * 17)
        return result


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("position", [len(PROMPT), len(PROMPT) + 5])
async def test_logits_that_are_not_finite_end_their_request_alone(position: int, depth: int) -> None:
    asked = [replace(request(PROMPT, 20, sampling=Sampling(seed=seed)), request_id=f"r{seed}") for seed in range(3)]
    async with serving(NotFinite(1, position, depth)) as engine:
        first, broken, last = await asyncio.gather(*[answer(engine.submit(each)) for each in asked])
        after = await answer(engine.submit(asked[0]))
        assert engine.snapshot().generated_tokens == 3 * 20 + position - len(PROMPT)
    expected = expected_tokens(PROMPT, 20, LETTERS)
    assert [got.tokens for got in (first, last, after)] == [expected] * 3
    assert broken.tokens == expected[: position - len(PROMPT)]
    assert isinstance(broken.error, LogitsNotFinite)
    assert f"position {position}, after {position - len(PROMPT)} tokens" in str(broken.error)
    assert "numbers stop to be finite in the feed-forward of layer 17" in str(broken.error)


async def test_a_bad_request_is_refused_before_it_is_queued() -> None:
    async with serving(FakeExecutor(ALL_IDS)) as engine:
        with pytest.raises(InvalidRequest, match="token id"):
            engine.submit(request((TOKENIZER.vocabulary,)))
        with pytest.raises(InvalidRequest, match="context of 256"):
            engine.submit(request(PROMPT, 254))
        assert engine.snapshot().queued == 0


async def test_the_context_is_no_longer_than_the_pool_of_blocks() -> None:
    executor = FakeExecutor(ALL_IDS, replace(LIMITS, kv_blocks=2))
    async with serving(executor) as engine:
        with pytest.raises(InvalidRequest, match="context of 32"):
            engine.submit(request(PROMPT, 30))
        got = await answer(engine.submit(request(PROMPT, None)))
    assert got.finished.usage.completion_tokens == 29


async def test_a_request_holds_blocks_for_all_tokens_but_the_last() -> None:
    start = Gate(number=0)
    executor = FakeExecutor(ALL_IDS, replace(LIMITS, kv_blocks=2), start)
    async with serving(executor) as engine:  # 17 tokens, of which 16 are run: one block each
        generations = [engine.submit(request(PROMPT, 14)) for _ in range(2)]
        start.open()
        await asyncio.gather(*[answer(generation) for generation in generations])
    assert max(len(step.chunks) for step in executor.steps) == 2


async def test_a_consumer_that_never_reads_holds_up_nobody() -> None:
    async with serving(FakeExecutor(ALL_IDS)) as engine:
        unread = engine.submit(request((9, 9), 100))
        read = await answer(engine.submit(request(PROMPT, 120)))
        assert read.tokens == expected_tokens(PROMPT, 120, ALL_IDS)
        late = await answer(unread)
    assert late.tokens == expected_tokens((9, 9), 100, ALL_IDS)
    assert len(late.events) == 4


async def test_a_request_runs_the_experts_that_it_asks_for_and_else_those_of_the_settings() -> None:
    executor, own = FakeExecutor(ALL_IDS), ExpertReduction(2, 0.25)
    async with serving(executor, prefill_chunk=2, smart_expert_reduction="1,0.5") as engine:
        await answer(engine.submit(request(PROMPT)))
        steps = len(executor.steps)
        await answer(engine.submit(request(PROMPT, experts=own)))
    by_default, asked = executor.steps[:steps], executor.steps[steps:]
    assert {chunk.experts for step in by_default for chunk in step.chunks} == {ExpertReduction(1, 0.5)}
    assert {chunk.experts for step in asked for chunk in step.chunks} == {own}
