"""Open requests go on past lost workers with the tokens that they would have had; nothing of a broken step is taken."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from numoe.coordinator.engine.batch import MOST_LOSSES
from numoe.coordinator.engine.latch import Latch
from numoe.coordinator.engine.state import EngineState, RequestPhase
from numoe.coordinator.requests.events import PromptProgress, Resumed
from numoe.coordinator.requests.generation import Generation
from numoe.coordinator.requests.request import GenerationRequest
from numoe.protos.errors import (
    DeadlineExceeded,
    RequestCancelled,
    WorkerLost,
)
from numoe.protos.messages import Sampling, Step, StepResult
from tests.coordinator.engine.fake_executor import FakeExecutor, expected_tokens, lose_worker_at
from tests.coordinator.engine.serving import (
    ONE_SLOT,
    PATIENCE_SECONDS,
    PROMPT,
    Answer,
    Gate,
    answer,
    both,
    request,
    serving,
)
from tests.coordinator.tiny_tokenizer import ALL_IDS, TOKENIZER


async def test_open_requests_go_on_where_they_were_once_lost_workers_are_back() -> None:
    start, restarting = Gate(number=0), Gate(number=0)
    step = Step(0, ())
    executor = FakeExecutor(ALL_IDS, ONE_SLOT, both(start, lose_worker_at(4)), before_restart=lambda: restarting(step))
    async with serving(executor) as engine:
        generations = [engine.submit(request((index,), 50)) for index in range(5)]
        start.open()
        await restarting.reached.wait()
        now = engine.snapshot()
        assert (now.state, now.running, now.queued) == (EngineState.RESTARTING, 1, 4)
        assert engine.requests()[0].phase is RequestPhase.RESUMING
        generations.append(engine.submit(request(PROMPT)))  # waits as any other
        restarting.open()
        answers = await asyncio.gather(*[answer(generation) for generation in generations])
        for index, got in enumerate(answers[:5]):
            assert got.tokens == expected_tokens((index,), 50, ALL_IDS)
            assert got.finished.usage.completion_tokens == 50
        assert answers[5].tokens == expected_tokens(PROMPT, 8, ALL_IDS)
        assert [event for got in answers[1:] for event in got.events if isinstance(event, Resumed)] == []
        [pause] = [event for event in answers[0].events if isinstance(event, Resumed)]
        assert (pause.reason, pause.tokens) == ("worker 1 (pid 4242) died in step 4", 4)
        assert 0.0 < pause.seconds < PATIENCE_SECONDS
        told = engine.events.after()[-1]
        assert told.text == "all workers are ready again; requests that go on: 1, tokens run again: 4"
        assert engine.snapshot().restarts == executor.restarts == 1
        assert engine.counts.losses == {1: 1}
        assert engine.counts.tokens_run_again == 4
        assert engine.snapshot().prompt_tokens == 5 + len(PROMPT)  # those run again are not counted again


def many_requests() -> list[GenerationRequest]:
    """Prompts of several chunks and of one token, with all that a sequence remembers of its past; none begin alike."""
    penalties = Sampling(temperature=1.0, seed=3, repetition_penalty=1.2, presence_penalty=0.5)
    return [
        request(tuple(range(1, 60)), 20),
        request((9,), 30, sampling=Sampling(temperature=1.0, seed=2)),
        request(tuple(range(40)), 12, sampling=penalties, stop=("neverneverneverneverever",)),
        request((3, 4), 1),
        request((7, 7, 7), 40, stop=("e", "the", "1")),
        request((8, 7), 40, ignore_eos=False, sampling=penalties),
        *(request((100 + index, 5), 10 + index, sampling=Sampling(temperature=0.7, seed=index)) for index in range(8)),
    ]


async def answers_of(executor: FakeExecutor) -> list[Answer]:
    async with serving(executor) as engine:
        return await asyncio.gather(*[answer(engine.submit(one)) for one in many_requests()])


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("seed", range(10))
async def test_answers_are_those_of_an_undisturbed_engine_whenever_workers_are_lost(seed: int, depth: int) -> None:
    undisturbed = await answers_of(FakeExecutor(ALL_IDS))
    random, last = Random(seed), 0

    def lose(step: Step) -> None:
        nonlocal last
        if random.random() < 0.2 and step.number > last + 12:  # enough for all to be as far as they were
            last = step.number
            raise WorkerLost("worker 0 died")

    executor = FakeExecutor(ALL_IDS, before_collect=lose, depth=depth)
    disturbed = await answers_of(executor)
    assert executor.restarts > 0
    for got, expected in zip(disturbed, undisturbed, strict=True):
        assert (got.text, got.tokens) == (expected.text, expected.tokens)
        assert (got.finished.reason, got.finished.stop_match) == (
            expected.finished.reason,
            expected.finished.stop_match,
        )
        assert got.finished.usage == expected.finished.usage
        progress = [event.done for event in got.events if isinstance(event, PromptProgress)]
        assert progress == sorted(set(progress))


async def test_a_request_that_kills_workers_fails_and_all_others_go_on() -> None:
    deadly = 99

    def lose(step: Step) -> None:
        if any(deadly in chunk.token_ids for chunk in step.chunks):
            raise WorkerLost("worker 1 died", (1,))

    start = Gate(number=0)
    executor = FakeExecutor(ALL_IDS[:90], before_collect=both(start, lose))
    async with serving(executor, prompt_slowdown=0.0) as engine:  # its prompt in the same chunks each time
        others = [engine.submit(request(PROMPT, 40, sampling=Sampling(1.0, seed=seed))) for seed in range(3)]
        killer = engine.submit(request((*range(60), deadly), 5))
        waiting = [engine.submit(request((index,), 5)) for index in range(9)]
        start.open()
        failed = await answer(killer)
        assert isinstance(failed.error, WorkerLost)
        assert str(failed.error) == f"worker 1 died, {MOST_LOSSES} times in a row at this request"
        for seed, got in enumerate(await asyncio.gather(*map(answer, others))):
            assert got.tokens == expected_tokens(PROMPT, 40, ALL_IDS[:90], Sampling(1.0, seed=seed))
        for index, got in enumerate(await asyncio.gather(*map(answer, waiting))):
            assert got.tokens == expected_tokens((index,), 5, ALL_IDS[:90])
        assert executor.restarts == MOST_LOSSES
        assert engine.snapshot().state is EngineState.SERVING


async def test_a_worker_lost_while_a_step_is_submitted_is_a_loss_as_any() -> None:
    class LosesInSubmit(FakeExecutor):
        def submit(self, step: Step) -> None:
            if step.number == 3:
                raise WorkerLost("the ring of worker 0 is closed")
            super().submit(step)

    start = Gate(number=0)
    async with serving(LosesInSubmit(ALL_IDS, before_collect=start)) as engine:
        short, long = engine.submit(request(PROMPT, 3)), engine.submit(request(PROMPT, 30))
        start.open()
        assert (await answer(short)).finished  # its last token came with the step before
        assert (await answer(long)).tokens == expected_tokens(PROMPT, 30, ALL_IDS)


async def test_deadlines_and_cancelling_hold_while_workers_restart() -> None:
    cancelled, late, held = Latch(), Latch(), threading.Event()

    class Restarting(FakeExecutor):
        def restart(self, look: Callable[[], None]) -> None:
            while not held.wait(0.01):
                look()
            super().restart(look)

    executor = Restarting(ALL_IDS, before_collect=lose_worker_at(2))
    async with serving(executor) as engine:
        deadline = time.monotonic() + 0.5
        generations = [engine.submit(request(PROMPT, 40, deadline=one)) for one in (deadline, None, None)]

        async def read(generation: Generation, over: Latch) -> Answer:
            got = await answer(generation)
            over.set()
            return got

        reading = [
            asyncio.create_task(read(one, over))
            for one, over in zip(generations, (late, cancelled, Latch()), strict=True)
        ]
        while engine.snapshot().state is not EngineState.RESTARTING:
            await asyncio.sleep(0.01)
        generations[1].cancel()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await cancelled.wait()
            await late.wait()
            while engine.snapshot().running > 1:
                await asyncio.sleep(0.01)
        held.set()
        got = await asyncio.gather(*reading)
        assert isinstance(got[0].error, DeadlineExceeded)
        assert isinstance(got[1].error, RequestCancelled)
        assert got[2].tokens == expected_tokens(PROMPT, 40, ALL_IDS)


async def test_an_answer_to_another_step_counts_as_a_lost_worker_and_nothing_of_it_is_taken() -> None:
    class Confused(FakeExecutor):
        def collect(self, timeout_seconds: float) -> StepResult:
            result = super().collect(timeout_seconds)
            number = result.number + (result.number == 2)
            return replace(result, number=number)

    async with serving(Confused(ALL_IDS)) as engine:
        got = await answer(engine.submit(request(PROMPT)))
        assert got.tokens == expected_tokens(PROMPT, 8, ALL_IDS)
        [pause] = [event for event in got.events if isinstance(event, Resumed)]
        assert "step 2" in pause.reason


async def test_a_token_that_does_not_exist_counts_as_a_lost_worker_and_nothing_of_that_step_is_taken() -> None:
    class Confused(FakeExecutor):
        def collect(self, timeout_seconds: float) -> StepResult:
            result = super().collect(timeout_seconds)
            if result.number == 2:
                result.token_ids[-1] = TOKENIZER.vocabulary
            return result

    start = Gate(number=0)
    async with serving(Confused(ALL_IDS, before_collect=start)) as engine:
        generations = [engine.submit(request((index,))) for index in range(3)]
        start.open()
        for index, got in enumerate(await asyncio.gather(*map(answer, generations))):
            assert got.tokens == expected_tokens((index,), 8, ALL_IDS)
        assert engine.counts.losses == {None: 1}
