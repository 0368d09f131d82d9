"""Which sequences run which positions in the next step: a pure decision.

Decodes go first, one position each: a sequence that streams is never held up by prompts. What is left of the step's
tokens goes to prompts, first come first served, each at most one chunk. Where several hosts run a part of each step,
several steps are under way: each takes its share of the sequences, so that no host waits, and no sequence decodes in
two of them, but a prompt's chunks follow each other. Then the queue's head is admitted while a
slot, tokens of this step and unreserved KV blocks for all it may ever need are there; a head that does not fit waits,
and nobody overtakes it.

*Guarantees*, by property tests: no limit of the step is exceeded; first come first served; in every step, or in one of
as many as are under way, all decodes run and the oldest unfinished prompt progresses; nobody in the queue starves.
*Rejected*: letting small requests overtake a head that waits for blocks: better use of the pool, no bound on its wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numoe.protos.messages import StepLimits


@dataclass(frozen=True, slots=True)
class RunningSequence:
    """An admitted sequence."""

    pending: int  # known tokens neither run nor under way: 1 for a decode, more in a prompt, 0 while it must wait


@dataclass(frozen=True, slots=True)
class WaitingSequence:
    """A sequence in the queue."""

    pending: int  # tokens to run first: its prompt
    blocks: int  # KV blocks for everything it may ever hold


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """All that the decision depends on."""

    running: Sequence[RunningSequence]  # in order of admission
    waiting: Sequence[WaitingSequence]  # in order of arrival; its first `slots` entries are enough
    unreserved_blocks: int


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """A sequence's share of the step: its next `tokens` pending tokens."""

    sequence: int  # index into running, then on into the admitted head of waiting
    tokens: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The decision: how many of the queue's head are admitted, and the step's chunks, decodes first."""

    admitted: int
    chunks: tuple[ScheduledChunk, ...]


def slots(limits: StepLimits) -> int:
    """Sequences that may be admitted at once: never more than can all decode in one step."""
    return min(limits.sequences, limits.step_tokens)


def schedule(state: SchedulerState, limits: StepLimits, prefill_chunk: int, depth: int = 1) -> Schedule:
    """Decides the next of `depth` steps at once; without anything to run the answer has no chunks."""
    decodes = [ScheduledChunk(index, 1) for index, running in enumerate(state.running) if running.pending == 1]
    decodes = decodes[: -(-len(state.running) // depth)]
    tokens = limits.step_tokens - len(decodes)
    prompts: list[ScheduledChunk] = []
    for index, running in enumerate(state.running):
        if tokens == 0:
            break
        if running.pending > 1:
            chunk = ScheduledChunk(index, min(running.pending, prefill_chunk, tokens))
            prompts.append(chunk)
            tokens -= chunk.tokens
    admitted = 0
    blocks = state.unreserved_blocks
    for waiting in state.waiting:
        index = len(state.running) + admitted
        if tokens == 0 or index >= slots(limits) or waiting.blocks > blocks:
            break
        chunk = ScheduledChunk(index, min(waiting.pending, prefill_chunk, tokens))
        prompts.append(chunk)
        tokens -= chunk.tokens
        blocks -= waiting.blocks
        admitted += 1
    return Schedule(admitted, tuple(decodes + prompts))
