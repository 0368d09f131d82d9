"""The sequences at work, the queue behind them and the KV blocks of both: who runs next, and who leaves."""

from __future__ import annotations

from numoe.coordinator.engine.kv_blocks import BlockPool
from numoe.coordinator.engine.queue import RequestQueue
from numoe.coordinator.engine.scheduler import RunningSequence, SchedulerState, WaitingSequence, schedule, slots
from numoe.coordinator.engine.sequence import Sequence
from numoe.coordinator.requests.events import Failed
from numoe.protos.errors import DeadlineExceeded, WorkerLost
from numoe.protos.messages import StepLimits

MOST_LOSSES = 3  # of workers in a row, at the same new tokens of a request: it may be what kills them


class Batch:
    """Continuous batching between two steps. Not safe for threads: the engine's lock guards it."""

    def __init__(self, limits: StepLimits, prefill_chunk: int, queue_length: int) -> None:
        self.pool = BlockPool(limits.kv_blocks, limits.block_positions)
        self.queue = RequestQueue(queue_length, slots(limits))
        self.running: list[Sequence] = []  # in order of admission
        self._limits, self._prefill_chunk = limits, prefill_chunk

    @property
    def has_open(self) -> bool:
        """Whether any request is at work or waits."""
        return bool(self.running or self.queue)

    def remove_ended(self, now: float) -> list[Sequence]:
        """Takes out every sequence that ended, was cancelled or is too late; returns those that are too late.

        One whose tokens are under way keeps its slot and blocks until they are run.
        """
        late = [s for s in (*self.queue, *self.running) if s.deadline <= now and s.outcome is None]
        for sequence in late:
            sequence.outcome = Failed(DeadlineExceeded(_late_message(sequence, now)))
        self.queue.remove_ended()
        over = [sequence for sequence in self.running if sequence.is_over and not sequence.under_way]
        if over:
            self.running = [sequence for sequence in self.running if sequence not in over]
        for sequence in over:
            sequence.close()
            self.queue.note_service_time(now - sequence.started_at)
        return late

    def next_work(self, now: float, depth: int) -> list[tuple[Sequence, int]]:
        """Admits what fits, and says which sequence runs how many tokens in the next of `depth` steps at once."""
        free_slots = slots(self._limits) - len(self.running)
        state = SchedulerState(
            running=[RunningSequence(0 if one.is_over else one.pending) for one in self.running],
            waiting=[
                WaitingSequence(sequence.pending, self.pool.blocks_for(sequence.positions))
                for sequence in self.queue.head(free_slots)
            ],
            unreserved_blocks=self.pool.unreserved,
        )
        decided = schedule(state, self._limits, self._prefill_chunk, depth)
        for _ in range(decided.admitted):
            sequence = self.queue.take_first()
            sequence.admit(self.pool.open(sequence.positions), now)
            self.running.append(sequence)
        under_way = any(sequence.under_way for sequence in self.running)
        assert decided.chunks or under_way or not self.has_open, "work is open, but none can be scheduled"
        return self._within_rows([(self.running[chunk.sequence], chunk.tokens) for chunk in decided.chunks])

    def _within_rows(self, work: list[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """The work, less what has more rows of logits than a step has room for: each token told of takes one."""
        spare, within = self._limits.sequences - len(work), []
        for sequence, tokens in work:
            if sequence.tells_prompt:
                tokens = min(tokens, 1 + spare)
                spare -= tokens - 1
            within.append((sequence, tokens))
        return within

    def rewind(self, lost: WorkerLost, now: float) -> list[Sequence]:
        """The workers were lost, with all keys and values: what is at work runs all its tokens again, in its blocks.

        Returns those that fail instead: new tokens of theirs were under way, and that was not the first time.
        """
        for sequence in self.running:
            sequence.rewind(str(lost), now)
        failed = [sequence for sequence in self.running if sequence.losses >= MOST_LOSSES and sequence.outcome is None]
        for sequence in failed:
            # One exception each: raised in several tasks, a shared one would gather all their tracebacks.
            sequence.outcome = Failed(WorkerLost(f"{lost}, {MOST_LOSSES} times in a row at this request", lost.workers))
        return failed

    def clear(self) -> list[Sequence]:
        """Gives all slots and blocks back; returns the sequences that were at work or waiting."""
        cleared = [*self.running, *self.queue.clear()]
        self.running = []
        for sequence in cleared:
            sequence.close()
        return cleared


def _late_message(sequence: Sequence, now: float) -> str:
    where = "in the queue" if sequence.started_at == 0.0 else f"with {sequence.drawn} tokens generated"
    return f"the deadline passed {now - sequence.submitted_at:.1f} seconds after the request came, {where}"
