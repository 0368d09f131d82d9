"""Continuous batching: requests in, steps to the workers, events out; one thread runs it all.

    submit --> waiting --schedule--> running --step--> workers
    (any coroutine)  ^ bounded          ^                 | token ids
                                        +----- apply <----+        then deliver: texts, while the next step computes

The thread's round: decide the next step and send it, deliver the texts of the last one, collect the answer, apply it.
One step is under way at a time, or one for each host that runs a part of the model. A request that ended, was cancelled
or ran out of time gives back its slot and its blocks once no step under way has tokens of it, as no worker touches
them then. Without requests the thread sleeps on a condition, and looks at the workers now and then.

*Guarantees*: exactly one terminal event per request; no client can hold up a step. After WorkerLost all open requests
go on once the workers are back: their tokens are run again, prompt and answer alike, and the next ones are drawn as if
nothing had happened, as draws depend on seed and position alone and bits on neither batch nor chunks. A request at
whose new tokens workers are lost each time fails; losses without one step or some minutes between end the engine.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from numoe.coordinator.engine.batch import Batch
from numoe.coordinator.engine.counts import EngineCounts
from numoe.coordinator.engine.event_log import EventKind, EventLog
from numoe.coordinator.engine.executor import StepExecutor
from numoe.coordinator.engine.kv.slot_orders import SlotOrders
from numoe.coordinator.engine.latch import Latch
from numoe.coordinator.engine.restarts import Restarts
from numoe.coordinator.engine.routed_experts import RoutedExperts
from numoe.coordinator.engine.sequence import Sequence
from numoe.coordinator.engine.state import EngineSnapshot, EngineState, RequestStatus
from numoe.coordinator.engine.under_way import StepsUnderWay, Work
from numoe.coordinator.requests.constraint import Guide
from numoe.coordinator.requests.events import Failed, Finished
from numoe.coordinator.requests.generation import Generation, fail_all, wake_consumers
from numoe.coordinator.requests.request import GenerationRequest, RequestLimits, check_request, token_budget
from numoe.coordinator.requests.request_end import Report, report_to_nobody
from numoe.coordinator.settings import EngineSettings, expert_reduction
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import NumoeError, QueueFull, ServiceError, Unavailable, WorkerLost
from numoe.protos.messages import NOT_DRAWN, Step, StepResult

GOING = "the service is shutting down; send the request to another one"
IDLE_CHECK_SECONDS = 0.25  # between two looks at idle workers; one costs some 20 microseconds

_log = structlog.get_logger()


class Engine:
    """Owns the batch and the thread that runs it; `start` starts the thread."""

    def __init__(
        self,
        executor: StepExecutor,
        tokenizer: Tokenizer,
        settings: EngineSettings,
        *,
        experts: RoutedExperts | None = None,
        step_timeout_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`experts`: what the model has of them; `clock`, in seconds, tells how long ago workers were lost."""
        step = executor.limits
        self.counts = EngineCounts()
        self.events = EventLog()
        self._report: Report = report_to_nobody
        self._executor, self._tokenizer, self._settings = executor, tokenizer, settings
        context_tokens = min(step.context_tokens, step.kv_blocks * step.block_positions)
        most, waiting = step.sequences, settings.queue_length
        self.limits = RequestLimits(tokenizer.vocabulary, context_tokens, experts is not None, most, waiting)
        self._experts, self._reduction = experts, expert_reduction(settings)
        self._thread = threading.Thread(target=self._main, name="numoe-engine", daemon=True)
        self._drained = Latch()
        self._stopped = Latch()

        # Guarded by the condition, which tells the thread of every change.
        self._changed = threading.Condition()
        self._batch = batch = Batch(step, settings, executor.store)
        self.slot_orders = SlotOrders(self._changed, batch.slots, batch.pool, batch.forget_stored)
        self._draining = False
        self._stopping = False
        self._restarting = False
        self._closed = False  # the executor, or it is being closed

        # Written by the thread alone.
        self._under_way = StepsUnderWay(executor, step_timeout_seconds, tokenizer.vocabulary)
        self._undelivered: list[Sequence] = []
        self._step_began_at: float | None = None
        self._prompt_tokens = 0
        self._generated_tokens = 0
        self._restarts = Restarts(executor, self.counts, clock)
        self._lost: WorkerLost | None = None  # workers that are not back yet
        self._error: NumoeError | None = None

    # ---- called in the event loop

    def start(self, events: EventLog | None = None, report: Report = report_to_nobody) -> None:
        """Starts the thread; `events` is told of changes of life, `report` of each request's end, by any thread."""
        self.events = self.events if events is None else events
        self._report = report
        self._thread.start()

    def submit(self, request: GenerationRequest, guide: Guide | None = None) -> Generation:
        """Queues a request; to be called in the event loop that will read the events. `guide`: of its constraint.

        Raises InvalidRequest, QueueFull, Unavailable.
        """
        if request.experts is None:
            request = replace(request, experts=self._reduction)
        check_request(request, self.limits)
        self.refuse_if_closed_or_full()
        now = time.monotonic()
        deadline = self.deadline_of(request, now)

        def note_end(event: Finished | Failed) -> None:
            self.counts.note_end(event)
            self._report(sequence.describe_end(event, time.monotonic()))

        loop = asyncio.get_running_loop()
        generation = Generation(request.request_id, loop, self._forget, note_end, request.deadline)
        budget = token_budget(request, self.limits)
        block = self._batch.pool.block_positions
        drafts = self._settings.speculate == "auto"
        sequence = Sequence(
            request, budget, deadline, generation, self._tokenizer, block, self._experts, guide, drafts=drafts
        )
        with self._changed:
            self._refuse_if_closed_or_full()
            sequence.submitted_at = now
            generation.mailbox.put_accepted(self._batch.queue.append(sequence, self._batch.running, now))
            self._changed.notify()
        return generation

    def refuse_if_closed_or_full(self) -> None:
        """Raises QueueFull or Unavailable where a request that came now would be refused, whatever it asks."""
        with self._changed:
            self._refuse_if_closed_or_full()

    def deadline_of(self, request: GenerationRequest, now: float) -> float:
        """When a request that comes now is over at the latest: its client's deadline or the service's own."""
        own = now + self._settings.request_timeout_seconds
        return own if request.deadline is None else min(own, request.deadline)

    async def drain(self, timeout_seconds: float) -> bool:
        """Takes no more requests, fails those that wait; whether those at work ended in time (`stop` fails others)."""
        with self._changed:
            self._draining = True
            waiting = self._batch.queue.clear()
            self._changed.notify()
        fail_all([sequence.generation for sequence in waiting], Unavailable(GOING))
        try:
            await asyncio.wait_for(self._drained.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True

    async def stop(self, timeout_seconds: float = 10.0) -> None:
        """Fails what is open, ends the thread after the step in flight, and closes the executor."""
        with self._changed:
            self._stopping = True
            restarting = self._restarting
            self._changed.notify()
        if self._thread.ident is None:
            self._shut_down(None)
        if restarting:
            await asyncio.to_thread(self._close_executor)  # ends the restart
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout_seconds)
        except TimeoutError:
            _log.warning("step_outlives_stop", seconds=timeout_seconds)
            await asyncio.to_thread(self._close_executor)

    async def wait_stopped(self) -> NumoeError | None:
        """Waits for the engine's end; returns what ended it, None if `stop` did."""
        await self._stopped.wait()
        return self._error

    def snapshot(self) -> EngineSnapshot:
        """State and counts of this moment."""
        with self._changed:
            return EngineSnapshot(
                state=self._state(),
                running=len(self._batch.running),
                queued=len(self._batch.queue),
                kv_blocks_used=self._batch.pool.used,
                kv_blocks=self._batch.pool.blocks,
                steps=self._under_way.total,
                prompt_tokens=self._prompt_tokens,
                generated_tokens=self._generated_tokens,
                restarts=self._restarts.total,
                rejected=self.counts.rejected,
                kv_blocks_reserved=self._batch.reserved(),
                sharing=self._batch.sharing(),
                step_began_at=self._step_began_at,
            )

    def requests(self) -> list[RequestStatus]:
        """The open requests: those at work in order of admission, then those that wait."""
        with self._changed:
            return [self._batch.status(sequence) for sequence in (*self._batch.running, *self._batch.queue)]

    def abort(self, request_id: str) -> int:
        """End every open request of this id with RequestCancelled; returns how many they were."""
        with self._changed:
            every = (*self._batch.running, *self._batch.queue)
            named = [sequence.generation for sequence in every if sequence.request.request_id == request_id]
        return sum(generation.abort() for generation in named)

    def _state(self) -> EngineState:
        if self._stopping:
            return EngineState.STOPPED
        if self._draining:
            return EngineState.DRAINING
        return EngineState.RESTARTING if self._restarting else EngineState.SERVING

    def _refuse_if_closed_or_full(self) -> None:
        if self._stopping or self._draining:
            raise Unavailable(GOING)
        try:
            self._batch.queue.refuse_if_full(self._batch.running, time.monotonic())
        except QueueFull:
            self.counts.note_rejected()
            raise

    def _forget(self, generation: Generation) -> None:
        """Takes a cancelled request out of the queue at once; one that runs is dropped before the next step."""
        with self._changed:
            self._batch.queue.remove(generation)
            self._changed.notify()

    # ---- the engine's thread

    def _main(self) -> None:
        error: NumoeError | None = None
        try:
            while not self._stopping:
                try:
                    if self._wait_for_work():
                        self._run_step()
                except WorkerLost as lost:
                    if not self._stopping:  # else we ended them ourselves
                        self._recover(lost)
        except NumoeError as failure:
            if not self._stopping:  # else a restart was given up, on purpose
                error = failure
                self.events.note(EventKind.ENGINE_FAILED, str(error))
        except Exception as failure:  # a defect of ours: no request may be left without an answer
            error = ServiceError(f"internal error in the engine: {type(failure).__name__}")
            self.events.note(EventKind.ENGINE_FAILED, str(error), exc_info=failure)
        self._shut_down(error)

    def _wait_for_work(self) -> bool:
        """Sleeps until there is something to do; False: stop. Raises WorkerLost."""
        with self._changed:
            while not (self._stopping or self._batch.has_open or self._undelivered or self.slot_orders.ready):
                if self._draining:
                    self._drained.set()
                if not self._changed.wait(IDLE_CHECK_SECONDS):
                    self._executor.check()
            return not self._stopping

    def _run_step(self) -> None:
        counts = self.counts
        counts.begin_round()
        try:
            while self._under_way.has_room and self._send_next():
                pass
            self._deliver()
            if not self._under_way:
                return
            counts.end_phase("deliver")
            self._step_began_at = self._step_began_at or time.monotonic()
            work, step, result = self._under_way.collect()
        finally:
            self._step_began_at = None
        counts.end_phase("wait")
        self._apply(work, step, result)
        for sequence in self._under_way.place_not_finite():
            if sequence not in self._undelivered:
                self._undelivered.append(sequence)
        counts.end_phase("apply")

    def _send_next(self) -> bool:
        """Drops what is over, admits what fits, and sends the next step; False: there is nothing to run."""
        now = time.monotonic()
        with self._changed:
            self._undelivered += self._batch.remove_ended(now)
            work = self._batch.next_work(now, self._executor.depth)
        self._batch.restore_blocks()
        self.slot_orders.advance()
        if not work:
            return False
        with self._changed:
            work = self._batch.copy_blocks(work)
        self.counts.end_phase("schedule")
        self._step_began_at = self._step_began_at or time.monotonic()
        self._under_way.send(work)
        self.counts.end_phase("publish")
        return True

    def _apply(self, work: Work, step: Step, result: StepResult) -> None:
        now = time.monotonic()
        self._batch.note_step(work, result.seconds)
        drawn = zip(step.chunks, result.draws(step.chunks), result.experts_run.tolist(), strict=True)
        for (sequence, tokens), (chunk, draws, experts_run) in zip(work, drawn, strict=True):
            standing = sequence.verify(chunk, draws, self.counts)
            right = tokens - len(draws) + len(standing)
            tokens, experts_run = right, experts_run * right // tokens  # and their share of the experts
            if sequence.is_new:
                self.counts.queue_seconds.observe(sequence.started_at - sequence.submitted_at)
            self._prompt_tokens += sequence.new_prompt_tokens(tokens)
            self.counts.tokens_run_again += sequence.tokens_again(tokens)
            sequence.ran(tokens, experts_run, now)
            if any(draw.token_id == NOT_DRAWN for draw in standing) and not sequence.ends_without_draw():
                self._under_way.note_not_drawn(sequence, chunk)
            elif standing and sequence.outcome is None:  # it may have come too late meanwhile
                self._generated_tokens += sequence.take(chunk, standing, self.counts, now)
            self._undelivered.append(sequence)
        self._restarts.note_step()

    def _deliver(self) -> None:
        undelivered, self._undelivered = self._undelivered, []
        for sequence in undelivered:
            sequence.deliver()
        wake_consumers(sequence.generation for sequence in undelivered)

    def _recover(self, lost: WorkerLost) -> None:
        """Restarts the workers, and has what is open run again; raises if nobody needs them, or it is given up."""
        self._restarts.note_lost(lost, self.events)
        self._lost = lost
        self._deliver()
        self._under_way.forget()
        with self._changed:
            self._restarting = True
            self._undelivered += self._batch.rewind(lost, time.monotonic())
        self._restarts.run(lost, self.events, self._wants_workers, self._look_while_restarting, self._fail_open)
        self._lost = None
        with self._changed:
            self._restarting = False
            going_on = [sequence.most_run for sequence in self._batch.running]
        again = f"; requests that go on: {len(going_on)}, tokens run again: {sum(going_on)}" if going_on else ""
        self.events.note(EventKind.WORKERS_RESTARTED, f"all workers are ready again{again}")

    def _wants_workers(self) -> bool:
        """Whether anybody is, or may come to be, served by them."""
        self._look_while_restarting()
        with self._changed:
            return not self._draining or self._batch.has_open

    def _look_while_restarting(self) -> None:
        """Lets requests go that are over. Raises Unavailable where the service stops."""
        with self._changed:
            self._undelivered += self._batch.remove_ended(time.monotonic())
            if self._draining and not self._batch.has_open:
                self._drained.set()
        self._deliver()
        if self._stopping:
            raise Unavailable("the service is stopping")

    def _fail_open(self, error: ServiceError) -> None:
        self._deliver()
        with self._changed:
            still_open = self._batch.clear()
        fail_all([sequence.generation for sequence in still_open], error)

    def _shut_down(self, error: NumoeError | None) -> None:
        with self._changed:
            self._stopping, self._restarting = True, False
        failure: ServiceError = Unavailable("the service has stopped; send the request to another one")
        if error is not None and self._lost is not None:
            failure = WorkerLost(f"{self._lost}; the workers could not be brought back, and the service ends")
        elif isinstance(error, ServiceError):
            failure = error
        self._fail_open(failure)
        self.slot_orders.close()
        self._close_executor()
        self._error = error
        self._drained.set()
        self._stopped.set()

    def _close_executor(self) -> None:
        """By whichever thread is the first."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        try:
            self._executor.close()
        except Exception:  # the engine is at its end all the same, and says so
            _log.exception("executor_close_failed")
