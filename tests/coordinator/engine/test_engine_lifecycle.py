"""The life of requests and of the engine: cancelling, deadlines, draining, stopping, idling."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

from numoe.coordinator.engine.engine import IDLE_CHECK_SECONDS, Engine
from numoe.coordinator.engine.state import EngineState
from numoe.coordinator.requests.events import Accepted, Failed
from numoe.coordinator.settings import EngineSettings
from numoe.protos.errors import (
    DeadlineExceeded,
    QueueFull,
    Unavailable,
)
from numoe.protos.messages import Step
from tests.coordinator.engine.fake_executor import FakeExecutor, expected_tokens
from tests.coordinator.engine.serving import ONE_SLOT, PATIENCE_SECONDS, PROMPT, Gate, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS, TOKENIZER


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    gate = Gate(number=2)
    async with serving(FakeExecutor(ALL_IDS, ONE_SLOT, gate), queue_length=2) as engine:
        first = engine.submit(request(PROMPT))
        await gate.reached.wait()
        waiting = [engine.submit(request(PROMPT)) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests wait already") as caught:
            engine.submit(request(PROMPT))
        assert caught.value.retry_seconds > 0
        accepted = [await anext(generation) for generation in waiting]
        assert [event.queue_position for event in accepted if isinstance(event, Accepted)] == [0, 1]
        waits = [event.estimated_wait_seconds for event in accepted if isinstance(event, Accepted)]
        assert 0 < waits[0] < waits[1]
        waiting[0].cancel()  # frees its place at once, while the step is still in flight
        third = engine.submit(request(PROMPT))
        assert engine.snapshot().queued == 2
        gate.open()
        for generation in (first, waiting[1], third):
            assert (await answer(generation)).tokens[-8:] == expected_tokens(PROMPT, 8, ALL_IDS)


async def test_a_thousand_random_cancels_leak_nothing_and_change_no_other_answer() -> None:
    chooser = random.Random(11)
    executor = FakeExecutor(ALL_IDS)
    open_at_once = asyncio.Semaphore(60)

    async def one(engine: Engine, index: int, cancel_after: int | None) -> None:
        prompt = tuple(chooser.choices(ALL_IDS, k=chooser.choice((1, 5, 33, 90))))
        asked = request(prompt, chooser.randint(1, 24))
        async with open_at_once, engine.submit(asked) as generation:
            if cancel_after is None:
                assert (await answer(generation)).tokens == expected_tokens(prompt, asked.max_tokens or 0, ALL_IDS)
                return
            for _ in range(cancel_after):
                if isinstance(await anext(generation, None), Failed | None):
                    break
            generation.cancel()

    async with serving(executor, prefill_chunk=9) as engine:
        phases: list[int | None] = [chooser.randint(0, 8) for _ in range(1000)] + [None] * 150
        chooser.shuffle(phases)
        await asyncio.gather(*[one(engine, index, phase) for index, phase in enumerate(phases)])
        assert await engine.drain(PATIENCE_SECONDS)
        status = engine.snapshot()
        assert (status.running, status.queued, status.kv_blocks_used) == (0, 0, 0)


async def test_a_deadline_ends_requests_in_the_queue_and_at_work() -> None:
    deadline = time.monotonic() + 1.0

    def wait_for_the_deadline(step: Step) -> None:
        if step.number == 3:
            threading.Event().wait(deadline - time.monotonic())

    executor = FakeExecutor(ALL_IDS, ONE_SLOT, wait_for_the_deadline)
    async with serving(executor) as engine:
        at_work, queued, unhurried = (
            engine.submit(request(PROMPT, 200, deadline=deadline)),
            engine.submit(request(PROMPT, 200, deadline=deadline)),
            engine.submit(request(PROMPT, 20)),
        )
        got = await answer(at_work)
        assert isinstance(got.error, DeadlineExceeded)
        assert "4 tokens generated" in str(got.error)
        assert got.tokens == expected_tokens(PROMPT, 4, ALL_IDS)
        got = await answer(queued)
        assert isinstance(got.error, DeadlineExceeded)
        assert "in the queue" in str(got.error)
        assert (await answer(unhurried)).finished
    assert executor.positions_run() == (3 + 3) + (1 + 19)


async def test_no_request_outlives_the_service_s_own_limit() -> None:
    async with serving(FakeExecutor(ALL_IDS), request_timeout_seconds=1e-9) as engine:
        assert isinstance((await answer(engine.submit(request(PROMPT)))).error, DeadlineExceeded)


async def test_drain_ends_what_is_at_work_well_fails_what_waits_and_takes_no_new_ones() -> None:
    gate = Gate(number=1)
    async with serving(FakeExecutor(ALL_IDS, ONE_SLOT, gate)) as engine:
        generations = [engine.submit(request(PROMPT)) for _ in range(3)]
        await gate.reached.wait()
        draining = asyncio.create_task(engine.drain(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="shutting down"):
            engine.submit(request(PROMPT))
        assert engine.snapshot().state is EngineState.DRAINING
        gate.open()
        assert await draining
        at_work, *waiting = [await answer(generation) for generation in generations]
        assert at_work.finished
        for one in waiting:
            assert isinstance(one.error, Unavailable)


async def test_what_drain_cannot_wait_for_fails_when_the_engine_stops() -> None:
    gate = Gate(number=1)
    async with serving(FakeExecutor(ALL_IDS, ONE_SLOT, gate)) as engine:
        generations = [engine.submit(request(PROMPT)) for _ in range(3)]
        await gate.reached.wait()
        assert not await engine.drain(0.01)
        stopping = asyncio.create_task(engine.stop(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        gate.open()
        await stopping
        assert await engine.wait_stopped() is None
        assert engine.snapshot().state is EngineState.STOPPED
        for generation in generations:
            assert isinstance((await answer(generation)).error, Unavailable)


async def test_stop_closes_the_workers_though_a_step_never_returns() -> None:
    gate = Gate(number=1)
    executor = FakeExecutor(ALL_IDS, before_collect=gate)
    engine = Engine(executor, TOKENIZER, EngineSettings())
    engine.start()
    generation = engine.submit(request(PROMPT))
    await gate.reached.wait()
    await engine.stop(0.01)
    assert executor.closed == 1
    gate.open()
    assert isinstance((await answer(generation)).error, Unavailable)
    assert await engine.wait_stopped() is None


async def test_an_idle_engine_drains_and_stops_at_once_even_if_it_never_started() -> None:
    async with serving(FakeExecutor(ALL_IDS)) as engine:
        assert await engine.drain(PATIENCE_SECONDS)
    executor = FakeExecutor(ALL_IDS)
    never_started = Engine(executor, TOKENIZER, EngineSettings())
    await never_started.stop()
    assert executor.closed == 1


async def test_an_idle_engine_only_looks_at_its_workers() -> None:
    looks: list[float] = []
    executor = FakeExecutor(ALL_IDS, in_check=lambda: looks.append(time.monotonic()))
    async with serving(executor) as engine:
        await answer(engine.submit(request(PROMPT)))
        assert await engine.drain(PATIENCE_SECONDS)
        looks.clear()
        assert engine._thread.ident is not None
        clock = time.pthread_getcpuclockid(engine._thread.ident)
        before, started = time.clock_gettime(clock), time.monotonic()
        await asyncio.sleep(4 * IDLE_CHECK_SECONDS)  # the idling itself
        used, seconds = time.clock_gettime(clock) - before, time.monotonic() - started
    assert 1 <= len(looks) <= seconds / IDLE_CHECK_SECONDS + 1
    assert used < 0.05 * seconds
