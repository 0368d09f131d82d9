"""What becomes of the engine when workers are lost: they are restarted, as long as it helps and somebody needs them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.engine.event_log import EventKind
from numoe.coordinator.engine.latch import Latch
from numoe.coordinator.engine.restarts import FORGET_SECONDS, MOST_RESTARTS
from numoe.coordinator.engine.state import EngineState
from numoe.coordinator.settings import EngineSettings
from numoe.protos.errors import (
    HostsMissing,
    ServiceError,
    SetupError,
    Unavailable,
    WorkerLost,
)
from numoe.protos.messages import Step
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens, lose_worker_at
from tests.coordinator.engine.serving import (
    ONE_SLOT,
    PATIENCE_SECONDS,
    PROMPT,
    Gate,
    answer,
    both,
    request,
    serving,
)
from tests.coordinator.tiny_tokenizer import ALL_IDS, TOKENIZER


async def test_a_worker_lost_while_idle_is_replaced_before_anybody_asks() -> None:
    restarted = Latch()
    lost = iter([WorkerLost("worker 1 died")])

    def look() -> None:
        for error in lost:
            raise error

    executor = FakeExecutor(ALL_IDS, before_restart=restarted.set, in_check=look)
    async with serving(executor) as engine:
        await restarted.wait()
        got = await answer(engine.submit(request(PROMPT)))
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


async def test_while_hosts_are_missing_requests_are_told_so_and_then_served() -> None:
    missing, tries = True, 0

    def restart() -> None:
        nonlocal tries
        tries += 1
        if missing:
            raise HostsMissing("on 10.0.0.1 the model cannot be served")

    executor = FakeExecutor(ALL_IDS, LIMITS, lose_worker_at(2), before_restart=restart)
    async with serving(executor) as engine:
        for _ in range(MOST_RESTARTS + 1):
            assert isinstance((await answer(engine.submit(request(PROMPT)))).error, HostsMissing)
            assert engine.snapshot().state is EngineState.RESTARTING
        missing = False
        while engine.snapshot().state is EngineState.RESTARTING:
            await asyncio.sleep(0)
        assert (await answer(engine.submit(request(PROMPT)))).tokens == expected_tokens(PROMPT, 8, ALL_IDS)
        told = [event.text for event in engine.events.after() if event.kind is EventKind.START_REFUSED]
        assert told == ["on 10.0.0.1 the model cannot be served"]
    assert tries > MOST_RESTARTS


class Arena:
    """What a lost group's frames refer to, of hundreds of MB with a large model."""


async def test_what_a_restart_that_failed_refers_to_goes_with_it() -> None:
    arenas: list[weakref.ref[Arena]] = []

    def restart() -> None:
        arena = Arena()
        arenas.append(weakref.ref(arena))
        if len(arenas) < MOST_RESTARTS:
            raise WorkerLost("worker 0 died again")

    executor = FakeExecutor(ALL_IDS, LIMITS, lose_worker_at(2), before_restart=restart)
    gc.disable()  # which finds it some time
    try:
        async with serving(executor) as engine:
            await answer(engine.submit(request(PROMPT)))
            assert [arena() for arena in arenas] == [None] * MOST_RESTARTS
    finally:
        gc.enable()


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
                    assert isinstance((await answer(engine.submit(request(PROMPT)))).error, ServiceError)
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
            assert (await answer(engine.submit(request(PROMPT, 2)))).tokens == expected_tokens(PROMPT, 2, ALL_IDS)
    assert executor.restarts == len(losses) > MOST_RESTARTS


async def test_losses_long_past_are_forgotten_though_no_step_was_asked_for() -> None:
    now, losses = [0.0], MOST_RESTARTS + 2
    lost, restarted = 0, threading.Event()

    def look() -> None:
        nonlocal lost
        if lost < losses and (lost == 0 or restarted.is_set()):
            lost += 1
            restarted.clear()
            now[0] += FORGET_SECONDS
            raise WorkerLost("worker 0 was killed for its memory")

    executor = FakeExecutor(ALL_IDS, before_restart=restarted.set, in_check=look)
    engine = Engine(executor, TOKENIZER, EngineSettings(), clock=lambda: now[0])
    engine.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while executor.restarts < losses and engine.snapshot().state is not EngineState.STOPPED:
            await asyncio.sleep(0.01)
    await engine.stop(PATIENCE_SECONDS)
    assert await engine.wait_stopped() is None
    assert executor.restarts == losses


@pytest.mark.parametrize("cancelled", [False, True])
async def test_workers_lost_while_draining_are_restarted_for_what_is_open_and_not_for_nobody(cancelled: bool) -> None:
    gate = Gate(3, then=lose_worker_at(3))
    executor = FakeExecutor(ALL_IDS, LIMITS, gate)
    async with serving(executor) as engine:
        generation = engine.submit(request(PROMPT))
        await gate.reached.wait()
        draining = asyncio.create_task(engine.drain(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        if cancelled:
            generation.cancel()
        gate.open()
        if not cancelled:
            assert (await answer(generation)).tokens == expected_tokens(PROMPT, 8, ALL_IDS)
        assert await draining
        if cancelled:
            assert isinstance(await engine.wait_stopped(), WorkerLost)
    assert executor.restarts == (0 if cancelled else 1)


class RestartsForEver(FakeExecutor):
    """Workers that do not come back until `close` ends the attempt, as the contract of executors has it."""

    def __init__(self) -> None:
        super().__init__(ALL_IDS, before_collect=lose_worker_at(2))
        self.restarting, self._ended = Latch(), threading.Event()

    def restart(self, look: Callable[[], None]) -> None:
        self.restarting.set()
        while not self._ended.wait(0.01):
            look()
        raise WorkerLost("the workers were ended")

    def close(self) -> None:
        super().close()
        self._ended.set()


async def test_a_drain_during_a_restart_waits_for_what_is_open_and_stopping_ends_the_restart() -> None:
    executor = RestartsForEver()
    engine = Engine(executor, TOKENIZER, EngineSettings())
    engine.start()
    generation = engine.submit(request(PROMPT))
    await executor.restarting.wait()
    with capture_logs() as logs:
        assert not await engine.drain(0.1)
        generation.cancel()
        assert await engine.drain(PATIENCE_SECONDS)
        assert executor.restarts == 0
        await engine.stop(PATIENCE_SECONDS)
    assert await engine.wait_stopped() is None
    assert logs == []


async def test_workers_that_stopping_ended_were_not_lost() -> None:
    gate = Gate(3, then=lose_worker_at(3))
    engine = Engine(FakeExecutor(ALL_IDS, LIMITS, gate), TOKENIZER, EngineSettings())
    engine.start()
    generation = engine.submit(request(PROMPT))
    await gate.reached.wait()
    stopping = asyncio.create_task(engine.stop(PATIENCE_SECONDS))
    await asyncio.sleep(0)
    with capture_logs() as logs:
        gate.open()
        await stopping
    assert isinstance((await answer(generation)).error, Unavailable)
    assert await engine.wait_stopped() is None
    assert logs == []


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
