"""Which sequences run which positions in the next step, who is admitted and who must give its blocks back: a pure
decision.

Decodes have their tokens first, one each. What is left of the step's tokens, or of those that prompts may have beside
streams (prompt_pace.py), goes to prompts, first come first served, each at most one chunk. Where several hosts run a
part of each step, several steps are under way: each takes its share of the sequences, so that no host waits, and no
sequence decodes in two of them, but a prompt's chunks follow each other. Then the queue's head is admitted while a
slot, tokens of this step, and KV blocks for all that is known of it and of everybody at work, and one more each, are
there; a head that does not fit waits, and nobody overtakes it.

Answers grow, and nobody knows how far. Where blocks run out, the sequence that was admitted last gives all of its own
back to those before it. It is run again later from its tokens, which gives the same bits, often from blocks that nobody
needed meanwhile. A batch request comes after all that are none, and gives its slot and its blocks back where one of
those finds too few.

*Guarantees*, by property tests: no limit of the step is exceeded; first come first served; in every step, or in one of
as many as are under way, all decodes run that have blocks, and the oldest unfinished prompt progresses; who was
admitted first never gives a block back; of those that are no batch requests nobody in the queue starves, and of batch
requests nobody while there is none of the others.
*Rejected*: letting small requests overtake a head that waits for blocks: better use of the pool, no bound on its wait.
Reserving all that a request may ever need: a pool of four contexts held four requests that name no longest answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from numoe.protos.messages import StepLimits


@dataclass(frozen=True, slots=True)
class RunningSequence:
    """An admitted sequence."""

    pending: int  # known tokens neither run nor under way: 1 for a decode, more in a prompt, 0 while it must wait
    sent: int = 0  # tokens before those, which were run, are under way, or stand in blocks of others
    blocks: Collection[int] = ()  # that it holds
    reserve: int = 0  # blocks for all that is known of it and one more, at most what it may ever need
    under_way: bool = False  # whether workers read and write its blocks
    yields: bool = False  # whether it makes room for those that do not


@dataclass(frozen=True, slots=True)
class WaitingSequence:
    """A sequence in the queue."""

    pending: int  # tokens to run first: its prompt, or 0 while another sequence runs what it will take over
    blocks: int  # that it takes of those that nobody holds: for all that is known of it and one more
    yields: bool = False


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """All that the decision depends on."""

    running: Sequence[RunningSequence]  # in order of admission, those that yield last
    waiting: Sequence[WaitingSequence]  # in order, those that yield last; as many as there are slots are enough
    blocks: int  # that nobody holds


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """A sequence's share of the step: its next `tokens` pending tokens."""

    sequence: int  # index into running, then on into the admitted head of waiting
    tokens: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The decision: how many of the queue's head are admitted, the step's chunks, and who goes back to the queue."""

    admitted: int
    chunks: tuple[ScheduledChunk, ...]  # decodes first
    preempted: tuple[int, ...] = ()  # indexes into running, the last first; nobody is admitted then


def slots(limits: StepLimits) -> int:
    """Sequences that may be admitted at once: never more than can all decode in one step."""
    return min(limits.sequences, limits.step_tokens)


def schedule(
    state: SchedulerState, limits: StepLimits, prefill_chunk: int, depth: int = 1, prompt_tokens: int | None = None
) -> Schedule:
    """Decides the next of `depth` steps at once; without anything to run the answer has no chunks.

    `prompt_tokens`: that all prompts together may run beside decodes; None: as many as fit.
    """
    room = _Room(state, limits.block_positions)
    every = [index for index, running in enumerate(state.running) if running.pending == 1]
    decoding = set(every[: -(-len(state.running) // depth)])
    tokens = limits.step_tokens - len(decoding)
    if decoding and prompt_tokens is not None:
        tokens = min(tokens, prompt_tokens)
    decodes: list[ScheduledChunk] = []
    prompts: list[ScheduledChunk] = []
    for index, running in enumerate(state.running):
        if index in room.preempted:
            continue
        if index in decoding:
            if room.fit(index, 1):
                decodes.append(ScheduledChunk(index, 1))
        elif running.pending > 1 and (fitting := room.fit(index, min(running.pending, prefill_chunk, tokens))):
            prompts.append(ScheduledChunk(index, fitting))
            tokens -= fitting
    if state.waiting and not state.waiting[0].yields and not room.preempted:
        full = len(state.running) >= slots(limits) or state.waiting[0].blocks > room.spare()
        if full and (yielding := [index for index, running in enumerate(state.running) if running.yields]):
            room.preempt_one_of(yielding)
    admitted = 0
    spare = room.spare()
    for waiting in () if room.preempted else state.waiting:
        index = len(state.running) + admitted
        if tokens == 0 or index >= slots(limits) or waiting.blocks > spare:
            break
        if waiting.pending:
            chunk = ScheduledChunk(index, min(waiting.pending, prefill_chunk, tokens))
            prompts.append(chunk)
            tokens -= chunk.tokens
        spare -= waiting.blocks
        admitted += 1
    chunks = tuple(chunk for chunk in decodes + prompts if chunk.sequence not in room.preempted)
    return Schedule(admitted, chunks, tuple(room.preempted))


class _Room:
    """The blocks that are left while a step is put together, and who had to give its own back for it."""

    def __init__(self, state: SchedulerState, block_positions: int) -> None:
        self.preempted: list[int] = []
        self._running, self._size = state.running, block_positions
        self._free = state.blocks
        self._held = [len(running.blocks) for running in state.running]
        self._holders: Counter[int] | None = None  # of each block; counted once blocks run out

    def fit(self, index: int, tokens: int) -> int:
        """How many of a sequence's next `tokens` have blocks, once those after it have given back what it lacks."""
        running = self._running[index]
        more = -(-(running.sent + tokens) // self._size) - self._held[index]
        while more > self._free and self.preempt_one_of(self._holding_after(index)):
            pass
        if more > self._free:
            more = self._free
            tokens = max(0, min(tokens, (self._held[index] + more) * self._size - running.sent))
        self._held[index] += max(0, more)
        self._free -= max(0, more)
        return tokens

    def _holding_after(self, index: int) -> list[int]:
        return [other for other in range(index + 1, len(self._running)) if len(self._running[other].blocks)]

    def spare(self) -> int:
        """Blocks that nobody at work will need soon."""
        those = [index for index in range(len(self._running)) if index not in self.preempted]
        return self._free - sum(max(0, self._running[index].reserve - self._held[index]) for index in those)

    def preempt_one_of(self, those: Collection[int]) -> bool:
        """Have the last of these sequences that can give its blocks back; whether one could."""
        able = [index for index in those if not self._running[index].under_way and index not in self.preempted]
        if not able:
            return False
        if self._holders is None:
            self._holders = Counter(block for running in self._running for block in running.blocks)
        self._holders.subtract(self._running[able[-1]].blocks)
        self._free += sum(self._holders[block] == 0 for block in self._running[able[-1]].blocks)
        self.preempted.append(able[-1])
        return True
