"""One running service, as operators see it and act on it: snapshots, and what may be done.

*Guarantees*: snapshots are taken on demand, one a second however many watch, and none while nobody does; where an event
is noted, the next one comes soon after it, so that a worker that was lost is seen at once. What costs reading files is
done in a thread, every few seconds. Nothing here is called for a token, a step or a request.

*Rejected*: a task that takes a snapshot every second as long as somebody watches; viewers that ask for the next one
when the last is a second old need nobody to count them, nor to end the task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.engine.event_log import EventKind, ServiceEvent
from numoe.coordinator.engine.state import EngineState
from numoe.coordinator.machine.machine_look import LOOK_SECONDS as MACHINE_SECONDS
from numoe.coordinator.machine.machine_look import MachineFacts, MachineLook
from numoe.coordinator.operations.configuration import Setting
from numoe.coordinator.operations.history import SAMPLE_SECONDS
from numoe.coordinator.operations.observer import Observer
from numoe.coordinator.operations.snapshot import Progress, Service, Snapshot
from numoe.coordinator.profiling.taking import RunningProfile
from numoe.coordinator.settings import WorkerSettings
from numoe.coordinator.workers.moves import make_moves, wanted_moves
from numoe.coordinator.workers.placement import Workers
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.moves import ExpertMove
from numoe.protos.errors import InvalidRequest, NumoeError, Unavailable
from numoe.protos.profile import TIME_LINE, Profile

Moving = AsyncGenerator[Progress, None]

LOOK_SECONDS = 1.0  # between two snapshots
SOON_SECONDS = 0.25  # between two snapshots at least, where an event came between
PROFILE_SECONDS = 10.0  # where nobody says how long
MOST_PROFILE_SECONDS = 600.0
PROFILE_LOOK_SECONDS = 0.01  # between two looks at how many steps there were


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known before a model is loaded."""

    service: Service
    configuration: tuple[Setting, ...]
    workers: WorkerSettings


class Operations:
    """Used in the event loop that serves."""

    def __init__(
        self,
        spec: ModelSpec,
        workers: Workers,
        engine: Engine,
        surroundings: Surroundings,
        drain: Callable[[], None] = lambda: None,
    ) -> None:
        """`drain` makes the service end well."""
        self.counts, self.events = engine.counts, engine.events
        self._spec, self._workers, self._engine, self._drain = spec, workers, engine, drain
        self._observer = Observer(spec, workers, engine, surroundings.service, surroundings.configuration)
        self._machine = MachineLook(surroundings.workers)
        self._facts: MachineFacts | None = None
        self._facts_at = 0.0
        self._last: Snapshot | None = None
        self._last_at = 0.0
        self._last_event = 0  # that the last snapshot knows of
        self._looking = asyncio.Lock()
        self._closed = asyncio.Event()
        self._moving: Progress | None = None
        self._turn: object | None = None  # of the call that has experts moved
        self._profiled = False

    # ---- seeing

    @property
    def state(self) -> EngineState:
        """What the engine does with requests that come now."""
        return self._engine.snapshot().state

    async def sample_forever(self) -> None:
        """Keep count of what has been; ends only by being cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self._observer.sample()

    async def snapshot(self) -> Snapshot:
        """The service now, or up to a second ago."""
        async with self._looking:
            if self._last is None or self._seconds_left() <= 0:
                facts = await self._machine_facts()
                self._last_at, self._last_event = time.monotonic(), self.events.last_id
                self._last = self._observer.take(facts, self._moving)
            return self._last

    async def watch(self) -> AsyncIterator[Snapshot]:
        """A snapshot at once, then every second and soon after each event, until `close`."""
        while not self._closed.is_set():
            yield await self.snapshot()
            await self._wait_for_next()

    async def watch_events(self, after: int) -> AsyncGenerator[ServiceEvent, None]:
        """The events that are kept and came after the one with this id, and every further one, until `close`."""
        closed = asyncio.create_task(self._closed.wait())
        try:
            while not self._closed.is_set():
                news = asyncio.create_task(self.events.next_after(after))
                try:
                    await asyncio.wait([news, closed], return_when=asyncio.FIRST_COMPLETED)
                    for event in news.result() if news.done() else ():
                        yield event
                        after = event.id
                finally:
                    news.cancel()
        finally:
            closed.cancel()

    def close(self) -> None:
        """End every watching at once."""
        self._closed.set()

    async def _machine_facts(self) -> MachineFacts:
        """Of this host."""
        if self._facts is None or time.monotonic() - self._facts_at >= MACHINE_SECONDS:
            self._facts_at = time.monotonic()
            here = [worker for worker in self._workers.placement().workers if not worker.host]
            self._facts = await asyncio.to_thread(self._machine.look, here)
        return self._facts

    def _seconds_left(self) -> float:
        """Until the next snapshot is due."""
        wait = LOOK_SECONDS if self.events.last_id == self._last_event else min(SOON_SECONDS, LOOK_SECONDS)
        return self._last_at + wait - time.monotonic()

    async def _wait_for_next(self) -> None:
        """Wait until a snapshot is due, or until `close`."""
        closed = asyncio.create_task(self._closed.wait())
        news = asyncio.create_task(self.events.next_after(self._last_event))
        try:
            await asyncio.wait([closed, news], timeout=self._seconds_left(), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([closed], timeout=self._seconds_left())
        finally:
            closed.cancel()
            news.cancel()

    # ---- doing

    def take_turn(self) -> Callable[[], None]:
        """Be the one who has experts moved, until what is returned is called. Raises Unavailable: another one is."""
        if self._turn is not None:
            raise Unavailable("experts are being moved for another call; rebalance again once that has ended")
        turn = self._turn = object()

        def end() -> None:
            if self._turn is turn:
                self._turn = None

        return end

    def abort(self, request_id: str) -> int:
        """End the open requests of this id; returns how many there were."""
        ended = self._engine.abort(request_id)
        if ended:
            told = f"request {request_id} was aborted by an operator"
            self.events.note(EventKind.REQUEST_ABORTED, told, request=request_id)
        return ended

    def drain(self) -> int:
        """Take no more requests and end once the open ones are done; returns how many are open."""
        status = self._engine.snapshot()
        self._drain()
        return status.running + status.queued

    async def profile(self, seconds: float, steps: int) -> Profile:
        """What threads do with their time for so many seconds, or until so many steps were run; 0: no such bound.

        Raises:
            InvalidRequest: a bound is out of range; ServiceError: another profile is being taken, or workers were lost.
        """
        if not 0 <= seconds <= MOST_PROFILE_SECONDS:
            raise InvalidRequest("seconds", f"found {seconds:g}, expected 0 to {MOST_PROFILE_SECONDS:.0f}")
        if self._profiled:
            raise Unavailable("another profile is being taken; ask again once it has ended")
        self._profiled = True
        gone = asyncio.Event()
        taking = asyncio.ensure_future(self._take_profile(seconds or PROFILE_SECONDS, steps, gone))
        taking.add_done_callback(lambda taken: taken.cancelled() or taken.exception())  # where nobody waits any more
        try:
            return await asyncio.shield(taking)
        finally:
            gone.set()

    async def _take_profile(self, seconds: float, steps: int, gone: asyncio.Event) -> Profile:
        """As `profile`, and over soon after `gone`; never cancelled, as a thread that begins cannot be stopped."""
        try:
            facts = await self._machine_facts()
            profiling = await asyncio.to_thread(self._workers.begin_profile, TIME_LINE)
            try:
                await self._wait_for_steps(profiling, seconds, steps, gone)
                source = facts.host.peak_source
                return await asyncio.to_thread(self._workers.end_profile, profiling, facts.peak, source)
            finally:
                profiling.close()
        finally:
            self._profiled = False

    async def _wait_for_steps(self, profiling: RunningProfile, seconds: float, steps: int, gone: asyncio.Event) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not 0 < steps <= profiling.steps:
            if gone.is_set() or self._closed.is_set():
                return
            await asyncio.sleep(PROFILE_LOOK_SECONDS)

    async def rebalance(self, drained: int | None = None) -> Moving:
        """Even out what workers compute, or empty the worker `drained` of whole experts; tells after each move.

        Raises:
            InvalidRequest, PlanError, Unavailable: nothing can be moved, or no further.
        """
        hits = self._workers.expert_hits()
        moves = await asyncio.to_thread(wanted_moves, self._spec, self._workers, hits, drained)
        purpose = "even out the workers" if drained is None else f"empty worker {drained}"
        async with aclosing(self.move(moves, purpose)) as moving:
            async for progress in moving:
                yield progress
        if drained is not None:
            told = f"worker {drained} holds no expert any more that could lie elsewhere"
            self.events.note(EventKind.WORKER_DRAINED, told, worker=drained)

    async def change_hosts(self, wanted: str) -> Moving:
        """Have the layers shared out over other hosts, named as --hosts does; tells once more when these serve.

        Raises:
            PlanError: they cannot; Unavailable: they could not, or the service ends.
        """
        last = self.events.last_id
        hosts = await asyncio.to_thread(self._workers.change_hosts, wanted)
        purpose = f"share the layers out over {', '.join(hosts)}"
        try:
            self._moving = Progress(purpose, 0, 1)
            yield self._moving
            async with aclosing(self.watch_events(last)) as events:
                async for event in events:
                    if event.kind is EventKind.WORKERS_RESTARTED:
                        break
                    if event.kind in (EventKind.START_REFUSED, EventKind.ENGINE_FAILED):
                        raise Unavailable(event.text)
                else:
                    raise Unavailable("the service ends")
            self._moving = Progress(purpose, 1, 1)
            yield self._moving
        finally:
            self._moving = None

    async def empty(self, worker: int) -> Moving:
        """As `rebalance` of a drained worker; an InvalidRequest names the field "worker"."""
        try:
            async with aclosing(self.rebalance(worker)) as moving:
                async for progress in moving:
                    yield progress
        except InvalidRequest as error:
            raise InvalidRequest(error.field.replace("drain_worker", "worker"), error.problem) from error

    async def move(self, moves: list[ExpertMove], purpose: str) -> Moving:
        """Make moves one after the other, for all to see; closed early, it leaves what was moved where it is."""
        made, why = 0, ""
        if moves:
            told = f"{len(moves)} experts are to move, to {purpose}"
            self.events.note(EventKind.REBALANCE_BEGUN, told, moves=len(moves))
        try:
            async for made in make_moves(self._workers, moves):
                self._moving = Progress(purpose, made, len(moves))
                yield self._moving
        except NumoeError as error:
            why = str(error)
            raise
        finally:
            self._moving = None
            if moves:
                told = f"{made} of {len(moves)} experts moved" + (f": {why}" if why else "")
                facts = {"made": made, "moves": len(moves)} | ({"error": why} if why else {})
                self.events.note(EventKind.REBALANCE_ENDED, told, **facts)
