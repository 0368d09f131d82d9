"""What the engine counts is what happened, and each request's end is counted once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from numoe.coordinator.engine.counts import PHASES, Histogram
from numoe.coordinator.engine.event_log import EventKind
from numoe.coordinator.engine.state import RequestPhase
from numoe.protos.errors import QueueFull, RequestAborted
from numoe.protos.messages import Step
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, lose_worker_at, lose_workers_from
from tests.coordinator.engine.serving import ONE_SLOT, Gate, answer, both, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS


def test_a_value_belongs_to_the_first_bound_that_is_not_below_it() -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in (0.5, 1.0, 1.5, 2.0, 5.0, 7.0):
        histogram.observe(value)
    seen = histogram.look()
    assert (seen.counts, seen.sum, seen.count) == ((2, 2, 1, 1), 17.0, 6)


async def test_times_are_counted_once_for_each_request_token_and_step() -> None:
    executor = FakeExecutor(ALL_IDS)
    budgets = (1, 2, 7, 30)
    async with serving(executor) as engine:
        await asyncio.gather(*[answer(engine.submit(request(max_tokens=budget))) for budget in budgets])
        counts = engine.counts
    for histogram in (counts.queue_seconds, counts.first_token_seconds, counts.prefill_rate):
        assert histogram.look().count == len(budgets)
    assert counts.between_tokens_seconds.look().count == sum(budgets) - len(budgets)
    assert counts.decode_rate.look().count == 3  # one token has no rate
    assert {phase: counts.phase_seconds[phase].look().count for phase in PHASES} == dict.fromkeys(
        PHASES, len(executor.steps)
    )
    assert counts.ended == {"length": len(budgets)}


async def test_every_end_is_counted_by_its_kind() -> None:
    gate = Gate(number=3)
    executor = FakeExecutor(ALL_IDS, before_collect=both(gate, lose_workers_from(3)))
    async with serving(executor) as engine:
        short, cancelled, lost = (engine.submit(request(max_tokens=tokens)) for tokens in (2, 50, 50))
        await answer(short)
        await gate.reached.wait()
        cancelled.cancel()
        gate.open()
        await answer(lost)
        ended, events = engine.counts.ended, [event.kind for event in engine.events.after()]
    assert ended == {"length": 1, "cancelled": 1, "worker_lost": 1}
    assert events[0] == EventKind.WORKER_LOST


async def test_restarts_are_events_with_rising_ids_that_can_be_awaited() -> None:
    executor = FakeExecutor(ALL_IDS, before_collect=lose_worker_at(1))
    async with serving(executor) as engine:
        news = asyncio.create_task(engine.events.next_after(2))
        assert (await answer(engine.submit(request(max_tokens=9)))).finished
        [restarted] = await news
        lost, restarting = engine.events.after()[:2]
    assert [(event.id, event.kind) for event in (lost, restarting, restarted)] == [
        (1, EventKind.WORKER_LOST),
        (2, EventKind.WORKERS_RESTARTING),
        (3, EventKind.WORKERS_RESTARTED),
    ]
    assert "worker 1 (pid 4242) died" in lost.text
    assert lost.at <= restarted.at


async def test_a_step_under_way_tells_since_when_and_none_does_afterwards() -> None:
    gate = Gate(number=1)
    executor = FakeExecutor(ALL_IDS, before_collect=gate)
    async with serving(executor) as engine:
        assert engine.snapshot().step_began_at is None
        before = time.monotonic()
        running = engine.submit(request())
        await gate.reached.wait()
        began = engine.snapshot().step_began_at
        assert began is not None
        assert before <= began <= time.monotonic()
        gate.open()
        await answer(running)
        assert engine.snapshot().step_began_at is None


async def test_a_step_that_lost_its_worker_is_not_under_way_any_more() -> None:
    restarting = Gate(number=0)
    executor = FakeExecutor(ALL_IDS, before_collect=lose_worker_at(1), before_restart=lambda: restarting(Step(0, ())))
    async with serving(executor) as engine:
        failing = engine.submit(request(max_tokens=9))
        await restarting.reached.wait()
        assert engine.snapshot().step_began_at is None
        restarting.open()
        await answer(failing)


async def test_refused_requests_are_counted_once() -> None:
    gate = Gate(number=0)
    executor = FakeExecutor(ALL_IDS, ONE_SLOT, before_collect=gate)
    async with serving(executor, queue_length=0) as engine:
        running = engine.submit(request())
        await gate.reached.wait()
        with pytest.raises(QueueFull):
            engine.submit(request())
        assert engine.snapshot().rejected == 1
        gate.open()
        await answer(running)


async def test_open_requests_tell_how_far_they_are_and_an_operator_may_end_them() -> None:
    gate = Gate(number=2)
    limits = replace(LIMITS, sequences=2)
    async with serving(
        FakeExecutor(ALL_IDS, limits, before_collect=gate), prefill_chunk=8, prompt_slowdown=0.0
    ) as engine:
        asked = (
            replace(request((1, 2), 9), request_id="decoding", client="ipv4:127.0.0.1:1"),
            replace(request(tuple(range(30)), 9), request_id="reading"),
            replace(request(), request_id="waiting"),
        )
        generations = [engine.submit(each) for each in asked]
        await gate.reached.wait()
        decoding, reading, waiting = engine.requests()
        assert (decoding.request_id, decoding.client, decoding.phase) == (
            "decoding",
            "ipv4:127.0.0.1:1",
            RequestPhase.DECODE,
        )
        assert (decoding.prompt_tokens, decoding.prompt_done, decoding.drawn, decoding.most_drawn) == (2, 2, 2, 9)
        assert (reading.phase, reading.prompt_tokens, reading.prompt_done, reading.drawn) == ("prefill", 30, 16, 0)
        assert (waiting.phase, waiting.prompt_done) == ("queued", 0)
        aborted = [engine.abort(name) for name in ("decoding", "waiting", "nobody", "decoding")]
        gate.open()
        answers = [await answer(generation) for generation in generations]
    assert aborted == [1, 1, 0, 0]
    assert isinstance(answers[0].error, RequestAborted)
    assert "an operator" in str(answers[0].error)
    assert len(answers[1].tokens) == 9
    assert engine.counts.ended == {"length": 1, "aborted": 2}
