"""The sequences at work, the queue behind them and the KV blocks of both: who runs next, and who leaves."""

from __future__ import annotations

from numoe.coordinator.engine.kv_blocks import BlockPool
from numoe.coordinator.engine.queue import RequestQueue
from numoe.coordinator.engine.scheduler import RunningSequence, SchedulerState, WaitingSequence, schedule, slots
from numoe.coordinator.engine.sequence import Sequence
from numoe.coordinator.requests.events import Failed
from numoe.protos.errors import DeadlineExceeded
from numoe.protos.messages import StepLimits


class Batch:
    """Continuous batching between two steps. Not safe for threads: the engine's lock guards it."""

    def __init__(self, limits: StepLimits, prefill_chunk: int, queue_length: int) -> None:
        self.pool = BlockPool(limits.kv_blocks, limits.block_positions)
        self.queue = RequestQueue(queue_length, slots(limits))
        self.running: list[Sequence] = []  # in order of admission
        self._limits, self._prefill_chunk = limits, prefill_chunk

    def remove_ended(self, now: float) -> list[Sequence]:
        """Takes out every sequence that ended, was cancelled or is too late; returns those that are too late.

        No step may be in flight: slots and blocks are given back.
        """
        late = [s for s in (*self.queue, *self.running) if s.deadline <= now and s.outcome is None]
        for sequence in late:
            sequence.outcome = Failed(DeadlineExceeded(_late_message(sequence, now)))
        self.queue.remove_ended()
        over = [sequence for sequence in self.running if sequence.is_over]
        if over:
            self.running = [sequence for sequence in self.running if not sequence.is_over]
        for sequence in over:
            sequence.close()
            self.queue.note_service_time(now - sequence.started_at)
        return late

    def next_work(self, now: float) -> list[tuple[Sequence, int]]:
        """Admits what fits, and says which sequence runs how many tokens in the next step."""
        free_slots = slots(self._limits) - len(self.running)
        state = SchedulerState(
            running=[RunningSequence(sequence.pending) for sequence in self.running],
            waiting=[
                WaitingSequence(sequence.pending, self.pool.blocks_for(sequence.positions))
                for sequence in self.queue.head(free_slots)
            ],
            unreserved_blocks=self.pool.unreserved,
        )
        decided = schedule(state, self._limits, self._prefill_chunk)
        for _ in range(decided.admitted):
            sequence = self.queue.take_first()
            sequence.admit(self.pool.open(sequence.positions), now)
            self.running.append(sequence)
        assert decided.chunks or not (self.running or self.queue), "work is open, but none can be scheduled"
        return [(self.running[chunk.sequence], chunk.tokens) for chunk in decided.chunks]

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
