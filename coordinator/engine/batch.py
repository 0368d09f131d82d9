"""The sequences at work, the queue behind them and the KV blocks of both: who runs next, and who leaves."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from numoe.coordinator.engine.drafting.draft_price import DraftPrice
from numoe.coordinator.engine.executor import BlockStore
from numoe.coordinator.engine.kv.block_pool import BlockPool, fill
from numoe.coordinator.engine.kv.slot_orders import RESTORED_AT_ONCE
from numoe.coordinator.engine.kv.slots import Slots
from numoe.coordinator.engine.queue import RequestQueue
from numoe.coordinator.engine.scheduling.prompt_pace import PromptPace
from numoe.coordinator.engine.scheduling.scheduler import (
    RunningSequence,
    Schedule,
    SchedulerState,
    WaitingSequence,
    schedule,
    slots,
)
from numoe.coordinator.engine.sequence import Sequence
from numoe.coordinator.engine.state import BlockSharing, RequestStatus
from numoe.coordinator.requests.events import Failed, Finished
from numoe.coordinator.settings import EngineSettings
from numoe.protos.errors import DeadlineExceeded, WorkerLost
from numoe.protos.messages import StepLimits

MOST_LOSSES = 3  # of workers in a row, at the same new tokens of a request: it may be what kills them


class Batch:
    """Continuous batching between two steps. Not safe for threads: the engine's lock guards it."""

    def __init__(self, limits: StepLimits, settings: EngineSettings, store: BlockStore | None = None) -> None:
        """`store`: where blocks outlive the workers; None: none does."""
        self.pool = BlockPool(limits.kv_blocks, limits.block_positions, caches=settings.prefix_cache == "on")
        self.queue = RequestQueue(settings.queue_length, slots(limits))
        self.slots = Slots(limits.sequences)
        self.running: list[Sequence] = []  # in order of admission, batch requests after all others
        self._cached_tokens, self._preemptions = 0, 0  # since the start
        self._store = store
        self._to_restore: list[bytes] = []  # of the queue's head: of the blocks that it takes over, the next ones too
        self._limits, self._prefill_chunk = limits, settings.prefill_chunk or limits.step_tokens
        self._pace, self._price = PromptPace(settings.prompt_slowdown, limits.step_tokens), DraftPrice()

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
            left = sequence.left()
            if self._store and isinstance(sequence.outcome, Finished):
                full = left.keys[: sequence.prompt // self.pool.block_positions]
                self._store.save(list(zip(sequence.blocks.tolist(), full, strict=False)), self.pool.version)
            self.slots.leave(sequence, left if sequence.run else None)
            sequence.close()
            self.queue.note_service_time(now - sequence.started_at)
        return late

    def next_work(self, now: float, depth: int) -> list[tuple[Sequence, int]]:
        """Admits what fits, and says which sequence runs how many tokens in the next of `depth` steps at once."""
        self._cached_tokens += sum(sequence.reuse_blocks() for sequence in self.running)
        head = self.queue.head(max(1, slots(self._limits) - len(self.running)))
        recovering = any(sequence.resumes for sequence in self.running)
        streams = self._streams()
        prompts = len(self.running) - streams + len(head)
        state, allowed = self._look(head), None if recovering else self._pace.allowed(streams, prompts)
        self._to_restore = self._find_stored(head[:1], state)
        if self._to_restore:
            state = replace(state, waiting=())
        decided = schedule(state, self._limits, self._prefill_chunk, depth, allowed)
        if not decided.chunks:  # streams wait for blocks that prompts have, or for steps under way
            decided = schedule(state, self._limits, self._prefill_chunk, depth)
        work = [([*self.running, *head][chunk.sequence], chunk.tokens) for chunk in decided.chunks]
        self._make_room(decided)
        for _ in range(decided.admitted):
            sequence = self.queue.take_first()
            self.slots.enter(sequence, sequence.keys_to_run(), sequence.request.slot)
            self._cached_tokens += sequence.admit(self.pool.open(sequence.positions), now)
            self._put_to_work(sequence)
        assert work or decided.preempted or self._to_restore or self._only_waits(), "nothing of what is open can be run"
        return self._within_rows(work) if allowed == 0 else self._with_guesses(self._within_rows(work))

    def _only_waits(self) -> bool:
        """Whether all that is open waits for steps under way, or is over."""
        return not self.has_open or any(one.under_way or one.is_over for one in (*self.running, *self.queue))

    def restore_blocks(self) -> None:
        """Reads a part of what the queue's head takes over into the workers' memory, as no step is under way.

        Its blocks are found in the next round, or, in time, by others. Raises WorkerLost.
        """
        if not self._to_restore:
            return
        assert self._store is not None
        fill(self.pool, self._to_restore, self._store.restore)

    def copy_blocks(self, work: Iterable[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """The work, of which a part may be copied instead; it must be sent before anything is read into blocks."""
        begun = []
        for sequence, tokens in work:
            if not sequence.streams:  # else there may be guesses behind its one token
                self._cached_tokens += sequence.copy_block()
                tokens = min(tokens, sequence.pending)
            begun.append((sequence, tokens))
        return begun

    def forget_stored(self, key: bytes) -> None:
        """Has a block deleted that outlives the workers."""
        if self._store is not None:
            self._store.forget(key)

    def _find_stored(self, head: Iterable[Sequence], state: SchedulerState) -> list[bytes]:
        """Of the queue's head, if there is room for it: the blocks that it takes over, some of them kept in files."""
        if self._store is None:
            return []
        for sequence, waiting in zip(head, state.waiting, strict=False):
            if waiting.pending > 1 and waiting.blocks <= self.pool.blocks - self.reserved():
                keys = sequence.next_keys()
                found, _ = self.pool.find(keys)
                if stored := self._store.find(keys[found : found + RESTORED_AT_ONCE]):
                    return keys[: found + stored]
        return []

    def note_step(self, work: Collection[tuple[Sequence, int]], seconds: float) -> None:
        """A step took so long, whose tokens are not taken yet."""
        prompts = sum(tokens for sequence, tokens in work if not sequence.streams)
        guesses = sum(tokens - 1 for sequence, tokens in work if sequence.streams)
        if not prompts:
            self._price.note(len(work), guesses, seconds)
        if not guesses:
            self._pace.note(self._streams(), prompts, seconds)

    def _put_to_work(self, sequence: Sequence) -> None:
        before = sum(not one.yields for one in self.running)
        self.running.insert(len(self.running) if sequence.yields else before, sequence)

    def _streams(self) -> int:
        return sum(sequence.streams for sequence in self.running)

    def status(self, sequence: Sequence) -> RequestStatus:
        """How far a request is, and in which slot."""
        return replace(sequence.status(), slot=self.slots.number_of(sequence))

    def reserved(self) -> int:
        """Blocks that are held, or will be soon, by what is at work."""
        return self.pool.used + sum(max(0, self._reserve(one) - one.blocks.size) for one in self.running)

    def sharing(self) -> BlockSharing:
        """What requests have of each other's blocks."""
        return BlockSharing(self.pool.cached, self._cached_tokens, self.pool.evicted, self._preemptions)

    def _reserve(self, sequence: Sequence) -> int:
        """Blocks for all that is known of it, and one for what it draws next."""
        pool = self.pool
        return min(pool.blocks_for(sequence.known) + 1, pool.blocks_for(sequence.positions))

    def _look(self, head: Iterable[Sequence]) -> SchedulerState:
        """What the schedule depends on; who could take over what another one is about to run waits for it."""
        promised = set[bytes]()
        running: list[RunningSequence] = []
        for one in self.running:
            pending = 0 if one.is_over else one.pending
            if (
                self.pool.caches and not one.is_over and one.known - one.run > 1
            ):  # it runs more than what was drawn last
                pending = pending if promised.isdisjoint(one.next_keys()[:1]) else 0
                promised.update(one.keys_to_run())
            running.append(
                RunningSequence(pending, one.sent, one.blocks, self._reserve(one), one.under_way, one.yields)
            )
        waiting: list[WaitingSequence] = []
        for one in head:
            keys = one.next_keys()
            found, held = self.pool.find(keys)
            waits = not promised.isdisjoint(keys[found : found + 1])
            pending = 0 if waits else one.pending - found * self.pool.block_positions
            waiting.append(WaitingSequence(pending, self._reserve(one) - held, one.yields))
            if self.pool.caches:
                promised.update(keys[found:])
        return SchedulerState(running, waiting, self.pool.available)

    def _make_room(self, decided: Schedule) -> None:
        """Has those that must give their blocks back wait in front of the queue."""
        for index in decided.preempted:
            sequence = self.running.pop(index)  # the last one first
            sequence.preempt()
            self.slots.leave(sequence)
            self.queue.put_back(sequence)
            self._preemptions += 1

    def _within_rows(self, work: list[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """The work, less what has more rows of logits than a step has room for: each token told of takes one."""
        spare, within = self._limits.sequences - len(work), []
        for sequence, tokens in work:
            if sequence.tells_prompt:
                tokens = min(tokens, 1 + spare)
                spare -= tokens - 1
            within.append((sequence, tokens))
        return within

    def _with_guesses(self, work: list[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """The work, with guesses behind the tokens of streams, where they pay and the step has room.

        None beside prompts: by what such steps take it is measured how long prompts may hold streams up.
        """
        streams, limits = len(work), self._limits
        if not all(sequence.streams for sequence, _ in work):
            return work
        spare, guessing = min(limits.sequences, limits.step_tokens) - streams, []
        for sequence, tokens in work:
            guesses = sequence.draft(spare, self._price, streams)
            spare -= guesses
            guessing.append((sequence, tokens + guesses))
        return guessing

    def rewind(self, lost: WorkerLost, now: float) -> list[Sequence]:
        """The workers were lost, with all keys and values: what is at work runs all its tokens again.

        Returns those that fail instead: new tokens of theirs were under way, and that was not the first time.
        """
        for sequence in self.running:
            sequence.rewind(str(lost), now)
        self.pool.forget()
        self.slots.forget()
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
            self.slots.leave(sequence)
            sequence.close()
        return cleared


def _late_message(sequence: Sequence, now: float) -> str:
    where = "in the queue" if sequence.started_at == 0.0 else f"with {sequence.drawn} tokens generated"
    return f"the deadline passed {now - sequence.submitted_at:.1f} seconds after the request came, {where}"
