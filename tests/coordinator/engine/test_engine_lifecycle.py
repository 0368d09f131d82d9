"""Everything but a good end: queue, cancel, deadline, drain, stop, lost workers, our own defects, idling."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from numoe.coordinator.engine.engine import IDLE_CHECK_SECONDS, MOST_RESTARTS, Engine
from numoe.coordinator.engine.latch import Latch
from numoe.coordinator.engine.state import EngineState
from numoe.coordinator.requests.events import Accepted, Failed
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.settings import EngineSettings
from numoe.protos.errors import (
    DeadlineExceeded,
    QueueFull,
    RequestCancelled,
    ServiceError,
    SetupError,
    Unavailable,
    WorkerLost,
)
from numoe.protos.messages import Step, StepLimits, StepResult
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens, lose_worker_at
from tests.coordinator.engine.serving import PATIENCE_SECONDS, Answer, Gate, answer, both, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS, TOKENIZER

ONE_SLOT = StepLimits(step_tokens=32, sequences=1, context_tokens=256, kv_blocks=16, block_positions=16)
PROMPT = (5, 6, 7)


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


async def test_without_a_queue_a_free_slot_still_takes_a_request() -> None:
    gate = Gate(number=0)
    async with serving(FakeExecutor(ALL_IDS, ONE_SLOT, gate), queue_length=0) as engine:
        first = engine.submit(request(PROMPT))
        await gate.reached.wait()
        with pytest.raises(QueueFull):
            engine.submit(request(PROMPT))
        gate.open()
        assert (await answer(first)).finished


async def test_requests_are_admitted_in_the_order_they_came() -> None:
    executor = FakeExecutor(ALL_IDS, ONE_SLOT)
    async with serving(executor) as engine:
        await asyncio.gather(*[answer(engine.submit(request((index,), 3))) for index in range(20)])
    firsts = [chunk.token_ids[0] for step in executor.steps for chunk in step.chunks if chunk.first_position == 0]
    assert firsts == list(range(20))


async def test_a_cancelled_request_is_in_no_later_step_and_owns_no_block_there() -> None:
    start, gate = Gate(number=0), Gate(number=5)
    executor = FakeExecutor(ALL_IDS, before_collect=both(start, gate))
    async with serving(executor) as engine:
        generation = engine.submit(request(PROMPT, 200))
        await start.reached.wait()
        other = engine.submit(request((8, 9), 20))
        start.open()
        await gate.reached.wait()
        generation.cancel()
        generation.cancel()
        got = await answer(generation)  # ends although the step is still in flight
        assert isinstance(got.error, RequestCancelled)
        gate.open()
        assert (await answer(other)).tokens == expected_tokens((8, 9), 20, ALL_IDS)
    assert [len(step.chunks) for step in executor.steps[:7]] == [1, 2, 2, 2, 2, 2, 1]


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
    assert executor.positions_run() == (3 + 3) + (3 + 19)


async def test_no_request_outlives_the_service_s_own_limit() -> None:
    async with serving(FakeExecutor(ALL_IDS), request_timeout_seconds=1e-9) as engine:
        assert isinstance((await answer(engine.submit(request(PROMPT)))).error, DeadlineExceeded)


async def test_drain_ends_open_requests_well_and_takes_no_new_ones() -> None:
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
        for generation in generations:
            assert (await answer(generation)).finished


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


async def test_a_lost_worker_fails_all_open_requests_and_the_engine_serves_again_after_the_restart() -> None:
    start, restarting = Gate(number=0), Gate(number=0)
    step = Step(0, ())
    executor = FakeExecutor(ALL_IDS, ONE_SLOT, both(start, lose_worker_at(4)), before_restart=lambda: restarting(step))
    async with serving(executor) as engine:
        generations = [engine.submit(request((index,), 50)) for index in range(5)]
        start.open()
        answers = await asyncio.gather(*[answer(generation) for generation in generations])
        for got in answers:
            assert isinstance(got.error, WorkerLost)
            assert "pid 4242" in str(got.error)
        assert len({id(got.error) for got in answers}) == 5
        assert answers[0].tokens == expected_tokens((0,), 4, ALL_IDS)
        await restarting.reached.wait()
        assert engine.snapshot().state is EngineState.RESTARTING
        assert (engine.snapshot().running, engine.snapshot().kv_blocks_used) == (0, 0)
        with pytest.raises(Unavailable, match="restarted"):
            engine.submit(request(PROMPT))
        restarting.open()
        got = await _answer_when_serving(engine, request(PROMPT))
        assert got.tokens == expected_tokens(PROMPT, 8, ALL_IDS)
        assert engine.snapshot().restarts == executor.restarts == 1


async def test_a_worker_lost_while_a_step_is_submitted_ends_requests_the_same_way() -> None:
    class LosesInSubmit(FakeExecutor):
        def submit(self, step: Step) -> None:
            if step.number == 3:
                raise WorkerLost("the ring of worker 0 is closed")
            super().submit(step)

    start = Gate(number=0)
    executor = LosesInSubmit(ALL_IDS, before_collect=start)
    async with serving(executor) as engine:
        short, long = engine.submit(request(PROMPT, 3)), engine.submit(request(PROMPT, 30))
        start.open()
        assert (await answer(short)).finished  # its last token came with the step before
        got = await answer(long)
        assert isinstance(got.error, WorkerLost)
        drawn = sum(len(step.chunks) for step in executor.steps) - 3
        assert got.tokens == expected_tokens(PROMPT, drawn, ALL_IDS)


async def test_a_worker_lost_while_idle_is_replaced_before_anybody_asks() -> None:
    restarted = Latch()
    lost = iter([WorkerLost("worker 1 died")])

    def look() -> None:
        for error in lost:
            raise error

    executor = FakeExecutor(ALL_IDS, before_restart=restarted.set, in_check=look)
    async with serving(executor) as engine:
        await restarted.wait()
        got = await _answer_when_serving(engine, request(PROMPT))
        assert got.tokens == expected_tokens(PROMPT, 8, ALL_IDS)
        assert engine.snapshot().restarts == executor.restarts == 1


async def test_a_restart_that_cannot_work_stops_the_engine_at_once() -> None:
    def fail() -> None:
        raise SetupError("the model file is gone")

    executor = FakeExecutor(ALL_IDS, LIMITS, lose_worker_at(2), before_restart=fail)
    async with serving(executor) as engine:
        got = await answer(engine.submit(request(PROMPT)))
        assert "pid 4242" in str(got.error)
        assert isinstance(await engine.wait_stopped(), SetupError)
        with pytest.raises(Unavailable):
            engine.submit(request(PROMPT))


@pytest.mark.parametrize("again", ["in the first step", "idle", "while loading"])
async def test_workers_that_are_lost_every_time_stop_the_engine(again: str) -> None:
    attempts = []

    def lose(*_: Step) -> None:
        raise WorkerLost("worker 0 died")

    def restart() -> None:
        attempts.append(again)
        if again == "while loading":
            lose()

    idle = lose if again == "idle" else lambda: None
    executor = FakeExecutor(ALL_IDS, LIMITS, lose, before_restart=restart, in_check=idle)
    async with serving(executor) as engine:
        stopped = asyncio.create_task(engine.wait_stopped())
        while not stopped.done():
            if again != "idle":
                with suppress(Unavailable):
                    await answer(engine.submit(request(PROMPT)))
            await asyncio.sleep(0)
        error = await stopped
        assert type(error) is ServiceError
        assert f"{MOST_RESTARTS} restarts" in str(error)
        assert "worker 0 died" in str(error)
    assert len(attempts) == MOST_RESTARTS


async def test_a_completed_step_forgives_the_restarts_before_it() -> None:
    losses = range(1, 2 * (MOST_RESTARTS + 2), 2)  # every other step

    def lose(step: Step) -> None:
        if step.number in losses:
            raise WorkerLost("worker 0 died")

    executor = FakeExecutor(ALL_IDS, LIMITS, lose)
    async with serving(executor) as engine:
        for _ in losses:
            assert isinstance((await _answer_when_serving(engine, request(PROMPT))).error, WorkerLost)
        assert (await _answer_when_serving(engine, request(PROMPT))).finished
    assert executor.restarts == len(losses) > MOST_RESTARTS


async def test_workers_lost_while_draining_are_not_restarted() -> None:
    gate = Gate(3, then=lose_worker_at(3))
    executor = FakeExecutor(ALL_IDS, LIMITS, gate)
    async with serving(executor) as engine:
        generation = engine.submit(request(PROMPT))
        await gate.reached.wait()
        draining = asyncio.create_task(engine.drain(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        gate.open()
        assert isinstance((await answer(generation)).error, WorkerLost)
        assert await draining
        assert isinstance(await engine.wait_stopped(), WorkerLost)
    assert executor.restarts == 0


async def test_an_answer_to_another_step_counts_as_a_lost_worker() -> None:
    class Confused(FakeExecutor):
        def collect(self, timeout_seconds: float) -> StepResult:
            result = super().collect(timeout_seconds)
            number = result.number + (result.number == 2)
            return StepResult(number, result.token_ids, result.logprobs, result.seconds)

    async with serving(Confused(ALL_IDS)) as engine:
        got = await answer(engine.submit(request(PROMPT)))
        assert isinstance(got.error, WorkerLost)
        assert "step 2" in str(got.error)


async def test_a_token_that_does_not_exist_counts_as_a_lost_worker() -> None:
    async with serving(FakeExecutor((len(ALL_IDS),))) as engine:
        assert isinstance((await answer(engine.submit(request(PROMPT)))).error, WorkerLost)


async def test_a_defect_of_ours_leaves_no_request_without_an_answer() -> None:
    def break_down(step: Step) -> None:
        if step.number == 2:
            raise ZeroDivisionError

    start = Gate(number=0)
    async with serving(FakeExecutor(ALL_IDS, ONE_SLOT, both(start, break_down))) as engine:
        generations = [engine.submit(request(PROMPT)) for _ in range(3)]
        start.open()
        for generation in generations:
            error = (await answer(generation)).error
            assert type(error) is ServiceError
            assert "ZeroDivisionError" in str(error)
        assert type(await engine.wait_stopped()) is ServiceError


async def test_an_idle_engine_only_looks_at_its_workers() -> None:
    async with serving(FakeExecutor(ALL_IDS)) as engine:
        await answer(engine.submit(request(PROMPT)))
        assert await engine.drain(PATIENCE_SECONDS)
        status = Path(f"/proc/self/task/{engine._thread.native_id}/status")
        before, started = _context_switches(status), time.monotonic()
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            sum(range(1000))
        looks = (time.monotonic() - started) / IDLE_CHECK_SECONDS + 1
        # Two for each look, as it may have to wait for the interpreter; one more, on its way to bed at the beginning.
        assert _context_switches(status) - before <= 2 * looks + 1


def _context_switches(status: Path) -> int:
    return sum(int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line)


async def _answer_when_serving(engine: Engine, asked: GenerationRequest) -> Answer:
    while True:
        try:
            return await answer(engine.submit(asked))
        except Unavailable:
            await asyncio.sleep(0)
