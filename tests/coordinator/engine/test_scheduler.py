"""The schedule, as properties over random traffic: limits, order, progress, and each position exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.coordinator.engine.kv_blocks import BlockPool, BlockTable
from numoe.coordinator.engine.scheduler import (
    RunningSequence,
    Schedule,
    ScheduledChunk,
    SchedulerState,
    WaitingSequence,
    schedule,
    slots,
)
from numoe.protos.messages import StepLimits

LIMITS = StepLimits(step_tokens=8, sequences=4, context_tokens=64, kv_blocks=16, block_positions=4)


@dataclass(slots=True)
class Simulated:
    """A request in the simulation; it draws `answer` tokens."""

    arrival: int
    prompt: int
    answer: int
    leaves_after: int | None  # steps after its admission at which it is cancelled
    run: list[int] = field(default_factory=list)  # positions, in the order they ran or are under way
    drawn: int = 0
    admitted_at: int = -1
    table: BlockTable | None = None
    blocks: list[int] = field(default_factory=list)

    @property
    def pending(self) -> int:
        return self.prompt + self.drawn - len(self.run)

    @property
    def positions(self) -> int:
        return self.prompt + self.answer - 1


@st.composite
def _traffic(draw: st.DrawFn) -> tuple[StepLimits, int, list[Simulated]]:
    step_tokens = draw(st.integers(1, 20))
    block_positions = draw(st.integers(1, 6))
    kv_blocks = draw(st.integers(1, 30))
    context = draw(st.integers(2, 60).map(lambda n: min(n, max(2, kv_blocks * block_positions))))
    limits = StepLimits(step_tokens, draw(st.integers(1, 8)), context, kv_blocks, block_positions)
    requests = []
    for _ in range(draw(st.integers(1, 12))):
        prompt = draw(st.integers(1, context - 1))
        answer = draw(st.integers(1, context - prompt))
        if -(-(prompt + answer - 1) // block_positions) <= kv_blocks:
            requests.append(Simulated(draw(st.integers(0, 15)), prompt, answer, draw(st.none() | st.integers(1, 6))))
    requests.sort(key=lambda request: request.arrival)
    return limits, draw(st.integers(1, step_tokens)), requests


@given(_traffic())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_random_traffic_is_served_in_order_within_the_limits_and_to_its_end(
    traffic: tuple[StepLimits, int, list[Simulated]],
) -> None:
    limits, prefill_chunk, requests = traffic
    pool = BlockPool(limits.kv_blocks, limits.block_positions)
    running: list[Simulated] = []
    served = 0
    for step in range(15 + sum(request.prompt + request.answer for request in requests)):
        waiting = [request for request in requests[served:] if request.arrival <= step]
        decided = _decide(running, waiting, pool, limits, prefill_chunk)
        _check_limits(decided, running, waiting, pool, limits, prefill_chunk)
        for request in waiting[: decided.admitted]:
            request.table = pool.open(request.positions)
            request.admitted_at = step
        running += waiting[: decided.admitted]
        served += decided.admitted
        _run(decided, running, pool, step)
        running = [request for request in running if not _leaves(request, step)]
    assert not running
    assert served == len(requests)
    assert (pool.used, pool.unreserved) == (0, limits.kv_blocks)
    for request in requests:
        assert request.run == list(range(len(request.run)))
        assert request.leaves_after is not None or len(request.run) == request.positions
    assert all(a.admitted_at <= b.admitted_at for a, b in pairwise(requests))


def _decide(
    running: list[Simulated], waiting: list[Simulated], pool: BlockPool, limits: StepLimits, prefill_chunk: int
) -> Schedule:
    state = SchedulerState(
        [RunningSequence(request.pending) for request in running],
        [WaitingSequence(request.prompt, pool.blocks_for(request.positions)) for request in waiting],
        pool.unreserved,
    )
    decided = schedule(state, limits, prefill_chunk)
    assert decided == schedule(state, limits, prefill_chunk)
    return decided


def _check_limits(
    decided: Schedule,
    running: list[Simulated],
    waiting: list[Simulated],
    pool: BlockPool,
    limits: StepLimits,
    prefill_chunk: int,
) -> None:
    members = [*running, *waiting[: decided.admitted]]
    chunks = decided.chunks
    assert len(chunks) <= len(members) <= slots(limits) <= limits.sequences
    assert sum(chunk.tokens for chunk in chunks) <= limits.step_tokens
    assert len({chunk.sequence for chunk in chunks}) == len(chunks)
    assert all(1 <= chunk.tokens <= min(prefill_chunk, members[chunk.sequence].pending) for chunk in chunks)
    decodes = [index for index, request in enumerate(running) if request.pending == 1]
    assert [chunk.sequence for chunk in chunks[: len(decodes)]] == decodes
    prompts = [chunk.sequence for chunk in chunks[len(decodes) :]]
    assert prompts == [index for index in range(len(members)) if index not in decodes][: len(prompts)]
    assert prompts or len(decodes) == len(running), "the oldest prompt must progress"
    assert all(index in prompts for index in range(len(running), len(members)))
    assert chunks or not (running or waiting)
    if decided.admitted < len(waiting):  # the head waits only for want of a slot, tokens or blocks
        unreserved = pool.unreserved - sum(pool.blocks_for(r.positions) for r in waiting[: decided.admitted])
        full = sum(chunk.tokens for chunk in chunks) == limits.step_tokens or len(members) == slots(limits)
        assert full or pool.blocks_for(waiting[decided.admitted].positions) > unreserved


def _run(decided: Schedule, running: list[Simulated], pool: BlockPool, step: int) -> None:
    for chunk in decided.chunks:
        request = running[chunk.sequence]
        request.run += range(len(request.run), len(request.run) + chunk.tokens)
        assert request.table is not None
        request.blocks = request.table.grow(len(request.run)).tolist()
        request.drawn += request.pending == 0
    owned = [block for request in running for block in request.blocks]
    assert len(owned) == len(set(owned)) == pool.used


def _leaves(request: Simulated, step: int) -> bool:
    gone = request.leaves_after is not None and step - request.admitted_at >= request.leaves_after
    if gone or request.drawn == request.answer:
        assert request.table is not None
        request.table.close()
        return True
    return False


def test_decodes_run_before_prompts_and_prompts_share_what_is_left_in_order() -> None:
    state = SchedulerState(
        [RunningSequence(20), RunningSequence(1), RunningSequence(9)], [WaitingSequence(5, 1)], unreserved_blocks=9
    )
    decided = schedule(state, LIMITS, prefill_chunk=4)
    assert decided == Schedule(0, (ScheduledChunk(1, 1), ScheduledChunk(0, 4), ScheduledChunk(2, 3)))


def test_a_prompt_is_admitted_into_the_tokens_that_decodes_leave() -> None:
    state = SchedulerState(
        [RunningSequence(1), RunningSequence(1)], [WaitingSequence(20, 6), WaitingSequence(3, 1)], unreserved_blocks=9
    )
    assert schedule(state, LIMITS, prefill_chunk=8) == Schedule(
        1, (ScheduledChunk(0, 1), ScheduledChunk(1, 1), ScheduledChunk(2, 6))
    )


def test_nobody_overtakes_a_head_that_waits_for_blocks() -> None:
    state = SchedulerState([RunningSequence(1)], [WaitingSequence(20, 6), WaitingSequence(3, 1)], unreserved_blocks=5)
    assert schedule(state, LIMITS, prefill_chunk=8) == Schedule(0, (ScheduledChunk(0, 1),))


def test_no_more_sequences_are_admitted_than_can_decode_in_one_step() -> None:
    limits = StepLimits(step_tokens=2, sequences=4, context_tokens=64, kv_blocks=16, block_positions=4)
    decided = schedule(SchedulerState([], [WaitingSequence(1, 1)] * 4, unreserved_blocks=16), limits, prefill_chunk=2)
    assert decided == Schedule(2, (ScheduledChunk(0, 1), ScheduledChunk(1, 1)))
    assert slots(limits) == 2


def test_nothing_to_do_is_an_empty_schedule() -> None:
    assert schedule(SchedulerState([], [], 16), LIMITS, prefill_chunk=8) == Schedule(0, ())
