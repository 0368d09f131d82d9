"""Snapshots are shared and at most one a second, watching ends with the service, and what is done is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.engine.event_log import EventKind
from numoe.coordinator.operations import operations as module
from numoe.coordinator.operations.operations import Operations, Surroundings
from numoe.coordinator.operations.snapshot import Service
from numoe.coordinator.settings import EngineSettings, WorkerSettings
from numoe.protos.errors import InvalidRequest, ServiceError
from tests.coordinator.tiny_tokenizer import TOKENIZER
from tests.coordinator.workers.holders import SPEC, Holders, whole
from tests.log_lines import captured

SURROUNDINGS = Surroundings(Service("loading", "1.0", 1, 0.0, "g", "h"), (), WorkerSettings())


@asynccontextmanager
async def operating(workers: Holders) -> AsyncIterator[Operations]:
    engine = Engine(workers, TOKENIZER, EngineSettings())
    engine.start()
    try:
        yield Operations(SPEC, workers, engine, SURROUNDINGS)
    finally:
        await engine.stop()


async def test_viewers_share_one_look_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async with operating(whole()) as operations:
        shared = await asyncio.gather(*[operations.snapshot() for _ in range(50)])
        assert all(snapshot is shared[0] for snapshot in shared)
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
        seen = []
        async for snapshot in operations.watch():
            seen.append(snapshot)
            if len(seen) == 3:
                operations.close()
        assert seen[0].now <= seen[1].now <= seen[2].now
        assert len(set(map(id, seen))) == 3


async def test_what_has_not_changed_is_the_same_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doors send again only what is another one."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    workers = whole()
    workers.count(5)
    async with operating(workers) as operations:
        before, after = await operations.snapshot(), await operations.snapshot()
        workers.count(5)
        counted = await operations.snapshot()
    assert (after.experts, after.recent, after.ever) == (before.experts, before.recent, before.ever)
    assert after.experts is before.experts
    assert after.recent is before.recent
    assert after.ever is before.ever
    assert counted.recent is not before.recent
    assert counted.experts is before.experts


async def test_watching_ends_at_once_when_the_service_has_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)
    async with operating(whole()) as operations:
        watching = operations.watch()
        events = operations.watch_events(0)
        await anext(watching)
        operations.events.note(EventKind.SERVING, "it serves")
        assert (await anext(events)).text == "it serves"
        waiting = [asyncio.ensure_future(anext(watching, None)), asyncio.ensure_future(anext(events, None))]
        await asyncio.sleep(0)
        operations.close()
        async with asyncio.timeout(60):
            assert await asyncio.gather(*waiting) == [None, None]


async def test_workers_that_were_lost_and_came_back_between_two_looks_are_shown_as_lost_once() -> None:
    workers = whole()
    async with operating(workers) as operations:
        watching = operations.watch()
        before = await anext(watching)
        workers.pids[1] = 4250
        operations.events.note(EventKind.WORKER_LOST, "worker 1 died")
        lost = await anext(watching)
        operations.events.note(EventKind.WORKERS_RESTARTED, "all workers are ready again")
        after = await anext(watching)
        operations.close()
    states = [[(worker.state, worker.pid) for worker in told.workers] for told in (before, lost, after)]
    first = ("ready", 4242)
    assert states == [[first, ("ready", 4243)], [first, ("lost", None)], [first, ("ready", 4250)]]
    assert {worker.ready_at for worker in after.workers} == {1000.0}
    assert [event.kind for event in lost.events] == [EventKind.WORKER_LOST]


async def test_what_happens_is_seen_before_a_second_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(module, "SOON_SECONDS", 0.01)
    async with operating(whole()) as operations, asyncio.timeout(60):
        viewers = [operations.watch() for _ in range(3)]
        for viewer in viewers:
            await anext(viewer)
        waiting = [asyncio.ensure_future(anext(viewer)) for viewer in viewers]
        await asyncio.to_thread(operations.events.note, EventKind.WORKER_LOST, "worker 1 died")
        told = await asyncio.gather(*waiting)
        assert all(snapshot is told[0] for snapshot in told)
        assert [event.text for event in told[0].events] == ["worker 1 died"]
        operations.close()


async def test_many_events_make_no_more_looks_than_are_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(module, "SOON_SECONDS", 3600.0)
    async with operating(whole()) as operations:
        first = await operations.snapshot()
        for _ in range(10):
            operations.events.note(EventKind.REQUEST_ABORTED, "by an operator")
            assert await operations.snapshot() is first


async def test_events_that_were_and_those_that_come_are_told_once_each() -> None:
    async with operating(whole()) as operations:
        for number in range(3):
            operations.events.note(EventKind.SERVING, str(number))
        told = operations.watch_events(1)
        assert [(await anext(told)).text for _ in range(2)] == ["1", "2"]
        coming = asyncio.ensure_future(anext(told))
        await asyncio.to_thread(operations.events.note, EventKind.DRAINING, "3")
        assert (await coming).id == 4
        operations.close()


async def test_a_rebalance_changes_the_map_and_is_told_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    workers = whole()
    workers.count(5000)
    async with operating(workers) as operations:
        before = await operations.snapshot()
        during, moved_then = [], []
        async for progress in operations.rebalance():
            seen = await operations.snapshot()
            during.append((progress, seen.service.rebalance))
            moved_then.append(sum(len(at.experts) for at in seen.experts.moved))
        after = await operations.snapshot()
        events = operations.events.after()
    total = len(workers.moves)
    assert [progress.done for progress, _ in during] == list(range(total + 1))
    assert all(shown == progress for progress, shown in during)
    assert moved_then == list(range(total + 1))  # the map changes with every move
    assert (before.experts.moved, after.service.rebalance) == ((), None)
    moved = {expert for at in after.experts.moved for expert in at.experts}
    assert moved == {move.layer * SPEC.experts + move.expert for move in workers.moves}
    assert [(event.kind, event.text) for event in events] == [
        (EventKind.REBALANCE_BEGUN, f"{total} experts are to move, to even out the workers"),
        (EventKind.REBALANCE_ENDED, f"{total} of {total} experts moved"),
    ]
    assert sum(after.ever.shares) == pytest.approx(1.0)


async def test_who_stops_looking_ends_the_moves_and_that_is_told() -> None:
    workers = whole()
    workers.count(5000)
    async with operating(workers) as operations:
        moving = operations.rebalance()
        assert [(await anext(moving)).done for _ in range(2)] == [0, 1]
        await moving.aclose()
        last, status = operations.events.after()[-1], (await operations.snapshot()).service.rebalance
    assert len(workers.moves) == 1
    assert (last.kind, last.text.partition(" of ")[0], status) == (EventKind.REBALANCE_ENDED, "1", None)


async def test_moves_that_fail_are_told_with_why_and_faults_name_their_field() -> None:
    workers = whole()
    workers.count(5000)
    workers.faults = 1
    async with operating(workers) as operations:
        with pytest.raises(ServiceError):
            await _read(operations.rebalance())
        with pytest.raises(InvalidRequest, match=r"^worker: is 9; the workers are 0 to 1"):
            await _read(operations.empty(9))
        last = operations.events.after()[-1]
    assert (last.kind, last.text.partition(":")[2]) == (EventKind.REBALANCE_ENDED, " a worker was lost")


async def test_the_log_tells_what_the_events_tell_of_experts_that_move_and_of_a_worker_that_is_drained() -> None:
    workers = whole()
    workers.count(5000)
    with capture_logs() as logged:
        async with operating(workers) as operations:
            await _read(operations.empty(1))
            workers.faults = 1
            with pytest.raises(ServiceError):
                await _read(operations.rebalance())
            with pytest.raises(InvalidRequest):
                await _read(operations.empty(9))
            events = operations.events.after()
    assert [event.kind.value for event in events] == [
        "rebalance_begun",
        "rebalance_ended",
        "worker_drained",
        "rebalance_begun",
        "rebalance_ended",
    ]
    lines = captured(logged)
    assert [(line["event"], line["text"]) for line in lines] == [(event.kind, event.text) for event in events]
    assert [line["level"] for line in lines] == ["info"] * 4 + ["error"]
    assert (lines[2]["worker"], lines[4]["error"]) == (1, "a worker was lost")


async def _read(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass
