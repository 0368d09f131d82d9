"""Continuous batching: requests in, steps to the workers, events out; one thread runs it all.

    submit --> waiting --schedule--> running --step--> workers
    (any coroutine)  ^ bounded          ^                 | token ids
                                        +----- apply <----+        then deliver: texts, while the next step computes

The thread's round: decide the next step and send it, deliver the texts of the last one, collect the answer, apply it.
One step is in flight at a time, so between two steps no worker touches any block: there a request that ended, was
cancelled or ran out of time gives back its slot and its blocks. Without requests the thread sleeps on a condition, and
looks at the workers now and then.

*Guarantees*: exactly one terminal event per request; no client can hold up a step; after WorkerLost every open request
fails at once, and the engine serves again when `restart` returns. Workers that are lost again and again without one
step between end the engine.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import structlog

from numoe.coordinator.engine.executor import StepExecutor
from numoe.coordinator.engine.generation import Generation, wake_consumers
from numoe.coordinator.engine.kv_blocks import BlockPool
from numoe.coordinator.engine.latch import Latch
from numoe.coordinator.engine.requests import (
    Accepted,
    Failed,
    GenerationRequest,
    RequestLimits,
    check_request,
    token_budget,
)
from numoe.coordinator.engine.scheduler import Running, State, Waiting, schedule, slots
from numoe.coordinator.engine.sequence import Sequence
from numoe.coordinator.settings import EngineSettings
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import DeadlineExceeded, NumoeError, QueueFull, ServiceError, Unavailable, WorkerLost
from numoe.protos.messages import Step, StepResult

SHORTEST_WAIT_SECONDS = 0.1  # told to clients that must come back: even if the estimate is 0, not at once
LONGEST_WAIT_SECONDS = 600.0
SERVICE_TIME_WEIGHT = 0.1  # of the newest request in the running mean: about the last 20 count
IDLE_CHECK_SECONDS = 0.25  # between two looks at idle workers; one costs some 20 microseconds
MOST_RESTARTS = 3  # in a row, no step between: what is lost once more is broken, not unlucky

_log = structlog.get_logger()


class EngineState(StrEnum):
    SERVING = "serving"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One glance at the engine."""

    state: EngineState
    running: int
    queued: int
    kv_blocks_used: int
    kv_blocks: int
    steps: int  # since the start
    prompt_tokens: int  # run since the start
    generated_tokens: int  # drawn since the start
    restarts: int


class Engine:
    """Owns the queue, the running sequences and the block pool; `start` starts its thread."""

    def __init__(
        self,
        executor: StepExecutor,
        tokenizer: Tokenizer,
        settings: EngineSettings,
        *,
        step_timeout_seconds: float = 600.0,
    ) -> None:
        step = executor.limits
        self._executor = executor
        self._tokenizer = tokenizer
        self._settings = settings
        self._step_timeout_seconds = step_timeout_seconds
        self._prefill_chunk = settings.prefill_chunk or step.step_tokens
        self._slots = slots(step)
        self._pool = BlockPool(step.kv_blocks, step.block_positions)
        self.limits = RequestLimits(
            tokenizer.vocabulary, min(step.context_tokens, step.kv_blocks * step.block_positions)
        )
        self._changed = threading.Condition()  # guards all that follows, but for what only the thread itself touches
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in order of admission
        self._draining = self._stopping = self._restarting = False
        self._service_seconds: float | None = None  # mean time in work of requests that ended; None: none has
        self._undelivered: list[Sequence] = []  # the thread's own, as are the counters
        self._steps = self._prompt_tokens = self._generated_tokens = self._restarts = 0
        self._restarts_in_row = 0
        self._error: NumoeError | None = None
        self._drained = Latch()
        self._stopped = Latch()
        self._thread = threading.Thread(target=self._main, name="numoe-engine", daemon=True)

    # ---- called by the service, in its event loop

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request; call it in the event loop that will read the events.

        Raises InvalidRequest, QueueFull, Unavailable.
        """
        check_request(request, self.limits)
        with self._changed:
            self._refuse_if_closed_or_full()
        now = time.monotonic()
        deadline = now + self._settings.request_timeout_seconds
        if request.deadline is not None:
            deadline = min(deadline, request.deadline)
        generation = Generation(request.request_id, asyncio.get_running_loop(), self._forget)
        sequence = Sequence(request, token_budget(request, self.limits), deadline, generation, self._tokenizer)
        with self._changed:
            self._refuse_if_closed_or_full()
            sequence.submitted_at = now
            generation.mailbox.put_accepted(Accepted(len(self._waiting), self._wait_seconds(len(self._waiting), now)))
            self._waiting.append(sequence)
            self._changed.notify()
        return generation

    async def drain(self, timeout_seconds: float) -> bool:
        """Takes no more requests and waits for the open ones; whether all ended in time (`stop` fails the rest)."""
        with self._changed:
            self._draining = True
            self._changed.notify()
        try:
            await asyncio.wait_for(self._drained.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True

    async def stop(self, timeout_seconds: float = 10.0) -> None:
        """Fails what is open, ends the thread after the step in flight, and closes the executor."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is None:
            self._shut_down(None)
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout_seconds)
        except TimeoutError:
            _log.warning("step_outlives_stop", seconds=timeout_seconds)
            await asyncio.to_thread(self._executor.close)

    async def wait_stopped(self) -> NumoeError | None:
        """Waits for the engine's end; what ended it, None if `stop` did."""
        await self._stopped.wait()
        return self._error

    def status(self) -> EngineStatus:
        with self._changed:
            return EngineStatus(
                state=self._state(),
                running=len(self._running),
                queued=len(self._waiting),
                kv_blocks_used=self._pool.used,
                kv_blocks=self._pool.blocks,
                steps=self._steps,
                prompt_tokens=self._prompt_tokens,
                generated_tokens=self._generated_tokens,
                restarts=self._restarts,
            )

    def _state(self) -> EngineState:
        if self._stopping:
            return EngineState.STOPPED
        if self._draining:
            return EngineState.DRAINING
        return EngineState.RESTARTING if self._restarting else EngineState.SERVING

    def _refuse_if_closed_or_full(self) -> None:
        if self._stopping or self._draining:
            raise Unavailable("the service is shutting down; send the request to another one")
        if self._restarting:
            raise Unavailable("the workers are being restarted after one was lost; try again in a few seconds")
        places = self._settings.queue_length + max(0, self._slots - len(self._running))
        if len(self._waiting) >= places:
            retry = max(SHORTEST_WAIT_SECONDS, self._wait_seconds(0, time.monotonic()))
            raise QueueFull(
                f"{len(self._waiting)} requests wait already, as many as may; try again in about {retry:.1f} seconds",
                retry,
            )

    def _wait_seconds(self, ahead: int, now: float) -> float:
        """Estimated wait behind `ahead` waiting requests: departures until a slot is free, times the mean between two.

        KV blocks are left out: a request that waits for them alone is told 0.
        """
        departures = len(self._running) + ahead + 1 - self._slots
        if departures <= 0:
            return 0.0
        service = self._service_seconds
        if service is None:  # nobody has ended yet: as long as the oldest has taken so far is a fair guess
            service = max((now - sequence.started_at for sequence in self._running), default=0.0)
        return min(LONGEST_WAIT_SECONDS, departures * service / self._slots)

    def _forget(self, generation: Generation) -> None:
        """Takes a cancelled request out of the queue at once; one that runs is dropped before the next step."""
        with self._changed:
            for index, sequence in enumerate(self._waiting):
                if sequence.generation is generation:
                    del self._waiting[index]
                    break
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
                    self._recover(lost)
        except NumoeError as failure:
            error = failure
            _log.error("engine_failed", error=str(failure))
        except Exception as failure:  # a defect of ours: no request may be left without an answer
            error = ServiceError(f"internal error in the engine: {type(failure).__name__}")
            _log.exception("engine_failed")
        self._shut_down(error)

    def _wait_for_work(self) -> bool:
        """Sleeps until there is something to do; False: stop. Raises WorkerLost."""
        with self._changed:
            while not (self._stopping or self._waiting or self._running or self._undelivered):
                if self._draining:
                    self._drained.set()
                if not self._changed.wait(IDLE_CHECK_SECONDS):
                    self._executor.check()
            return not self._stopping

    def _run_step(self) -> None:
        work = self._next_work()
        if not work:
            self._deliver()
            return
        step = Step(self._steps, tuple(sequence.chunk(tokens) for sequence, tokens in work))
        self._steps += 1
        self._executor.submit(step)
        self._deliver()
        self._apply(work, step, self._executor.collect(self._step_timeout_seconds))

    def _next_work(self) -> list[tuple[Sequence, int]]:
        """Drops what is over, admits what fits, and says which sequence runs how many tokens."""
        now = time.monotonic()
        with self._changed:
            self._sweep(now)
            free_slots = self._slots - len(self._running)
            state = State(
                running=[Running(sequence.pending) for sequence in self._running],
                waiting=[
                    Waiting(sequence.prompt, self._pool.blocks_for(sequence.positions))
                    for sequence in islice(self._waiting, free_slots)
                ],
                unreserved_blocks=self._pool.unreserved,
            )
            decided = schedule(state, self._executor.limits, self._prefill_chunk)
            for _ in range(decided.admitted):
                sequence = self._waiting.popleft()
                sequence.admit(self._pool.open(sequence.positions), now)
                self._running.append(sequence)
            assert decided.pieces or not (self._running or self._waiting), "work is open, but none can be scheduled"
            return [(self._running[piece.sequence], piece.tokens) for piece in decided.pieces]

    def _sweep(self, now: float) -> None:
        """Takes out every sequence that ended, was cancelled or is too late; no step is in flight here."""
        late = [s for s in (*self._waiting, *self._running) if s.deadline <= now and s.outcome is None]
        for sequence in late:
            sequence.outcome = Failed(DeadlineExceeded(_late_message(sequence, now)))
        self._undelivered += late
        if any(_is_over(sequence) for sequence in self._waiting):
            self._waiting = deque(sequence for sequence in self._waiting if not _is_over(sequence))
        over = [sequence for sequence in self._running if _is_over(sequence)]
        if over:
            self._running = [sequence for sequence in self._running if not _is_over(sequence)]
        for sequence in over:
            sequence.close()
            seconds = now - sequence.started_at
            mean = seconds if self._service_seconds is None else self._service_seconds
            self._service_seconds = mean + SERVICE_TIME_WEIGHT * (seconds - mean)

    def _apply(self, work: list[tuple[Sequence, int]], step: Step, result: StepResult) -> None:
        draws = sum(chunk.sampling is not None for chunk in step.chunks)
        if result.number != step.number or len(result.token_ids) != draws:
            raise WorkerLost(
                f"the workers answered step {step.number}, which draws {draws} tokens, with {len(result.token_ids)} "
                f"tokens of step {result.number}"
            )
        now = time.monotonic()
        drawn = zip(result.token_ids.tolist(), result.logprobs.tolist(), strict=True)
        for sequence, tokens in work:
            self._prompt_tokens += min(tokens, max(0, sequence.prompt - sequence.run))
            sequence.ran(tokens)
            if sequence.pending == 0:
                token_id, logprob = next(drawn)
                if not 0 <= token_id < self.limits.vocabulary:
                    raise WorkerLost(f"step {step.number} drew token id {token_id}, which does not exist")
                sequence.take(token_id, logprob, now)
            self._undelivered.append(sequence)
        self._generated_tokens += draws
        self._restarts_in_row = 0

    def _deliver(self) -> None:
        undelivered, self._undelivered = self._undelivered, []
        for sequence in undelivered:
            sequence.deliver()
        wake_consumers(sequence.generation for sequence in undelivered)

    def _recover(self, lost: WorkerLost) -> None:
        """Fails what is open and restarts the workers; raises if nobody needs them, or they are lost every time."""
        _log.error("worker_lost", error=str(lost))
        with self._changed:
            self._restarting = True
        self._fail_open(lost)
        self._restart(lost)
        with self._changed:
            self._restarting = False
            self._restarts += 1
        _log.info("workers_restarted")

    def _restart(self, lost: WorkerLost) -> None:
        while self._restarts_in_row < MOST_RESTARTS:
            if self._stopping or self._draining:
                raise lost  # nobody is left to be served by new workers
            self._restarts_in_row += 1
            try:
                self._executor.restart()
            except WorkerLost as again:
                _log.error("worker_lost_in_restart", error=str(again))
                lost = again
            else:
                return
        raise ServiceError(
            f"{MOST_RESTARTS} restarts of the workers did not help, no step was completed after them; at last: {lost}"
        )

    def _fail_open(self, error: ServiceError) -> None:
        self._deliver()
        with self._changed:
            still_open = [*self._running, *self._waiting]
            self._running = []
            self._waiting.clear()
            for sequence in still_open:
                sequence.close()
        for sequence in still_open:
            # One exception each: raised in several tasks, a shared one would gather all their tracebacks.
            sequence.generation.mailbox.put_terminal(Failed(type(error)(str(error))))
        wake_consumers(sequence.generation for sequence in still_open)

    def _shut_down(self, error: NumoeError | None) -> None:
        with self._changed:
            self._stopping = True
        stopped = Unavailable("the service has stopped; send the request to another one")
        self._fail_open(error if isinstance(error, ServiceError) else stopped)
        try:
            self._executor.close()
        except Exception:  # the engine is at its end all the same, and says so
            _log.exception("executor_close_failed")
        self._error = error
        self._drained.set()
        self._stopped.set()


def _is_over(sequence: Sequence) -> bool:
    return sequence.outcome is not None or sequence.generation.mailbox.closed


def _late_message(sequence: Sequence, now: float) -> str:
    where = "in the queue" if sequence.started_at == 0.0 else f"with {sequence.drawn} tokens generated"
    return f"the deadline passed {now - sequence.submitted_at:.1f} seconds after the request came, {where}"
