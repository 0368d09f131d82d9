"""The schedule, as properties over random traffic: limits, order, progress, and each position exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.coordinator.engine.kv.block_pool import BlockPool, BlockTable
from numoe.coordinator.engine.scheduling.scheduler import (
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
    yields: bool
    run: list[int] = field(default_factory=list)  # positions, in the order they ran or are under way
    drawn: int = 0
    admitted_at: int = -1
    table: BlockTable | None = None

    @property
    def pending(self) -> int:
        return self.prompt + self.drawn - len(self.run)

    @property
    def positions(self) -> int:
        return self.prompt + self.answer - 1

    @property
    def blocks(self) -> list[int]:
        return [] if self.table is None else self.table.ids.tolist()

    def reserve(self, pool: BlockPool) -> int:
        return min(pool.blocks_for(self.prompt + self.drawn) + 1, pool.blocks_for(self.positions))


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
            leaves, yields = draw(st.none() | st.integers(1, 6)), draw(st.booleans())
            requests.append(Simulated(draw(st.integers(0, 15)), prompt, answer, leaves, yields))
    requests.sort(key=lambda request: request.arrival)
    return limits, draw(st.integers(1, step_tokens)), requests


@given(_traffic())
@settings(derandomize=True, max_examples=300)
def test_random_traffic_is_served_in_order_within_the_limits_and_to_its_end(
    traffic: tuple[StepLimits, int, list[Simulated]],
) -> None:
    limits, prefill_chunk, requests = traffic
    pool = BlockPool(limits.kv_blocks, limits.block_positions)
    running: list[Simulated] = []
    waiting: list[Simulated] = []
    begun_again = 1 + sum(not request.yields for request in requests)  # times that batch requests may have to be
    for step in range(16 + begun_again * sum(request.prompt + request.answer for request in requests)):
        waiting += [request for request in requests if request.arrival == step]
        waiting.sort(key=lambda request: request.yields)
        decided = _decide(running, waiting, pool, limits, prefill_chunk)
        _check_limits(decided, running, waiting, pool, limits, prefill_chunk)
        first = running[0] if running else None
        work = [([*running, *waiting][chunk.sequence], chunk.tokens) for chunk in decided.chunks]
        admitted, waiting = waiting[: decided.admitted], waiting[decided.admitted :]
        for index in decided.preempted:
            first = None if index == 0 else first
            waiting.insert(0, _preempt(running.pop(index)))
        waiting.sort(key=lambda request: request.yields)
        for request in admitted:
            request.table = pool.open(request.positions)
            request.admitted_at = step if request.admitted_at < 0 else request.admitted_at
        running = sorted([*running, *admitted], key=lambda request: request.yields)
        assert first in [None, *(request for request, _ in work)], "who was admitted first always progresses"
        _run(work, running, pool)
        running = [request for request in running if not _leaves(request, step)]
    assert not running
    assert not waiting
    assert (pool.used, pool.available) == (0, limits.kv_blocks)
    for request in requests:
        assert request.run == list(range(len(request.run)))
        assert request.leaves_after is not None or len(request.run) == request.positions
    for like in ([request for request in requests if request.yields is yields] for yields in (False, True)):
        assert all(a.admitted_at <= b.admitted_at for a, b in pairwise(like))


def _decide(
    running: list[Simulated], waiting: list[Simulated], pool: BlockPool, limits: StepLimits, prefill_chunk: int
) -> Schedule:
    state = SchedulerState(
        [
            RunningSequence(one.pending, len(one.run), one.blocks, one.reserve(pool), yields=one.yields)
            for one in running
        ],
        [WaitingSequence(one.pending, one.reserve(pool), one.yields) for one in waiting],
        pool.available,
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
    chunks, preempted = decided.chunks, decided.preempted
    assert len(chunks) <= len(members) <= slots(limits) <= limits.sequences
    assert sum(chunk.tokens for chunk in chunks) <= limits.step_tokens
    assert len({chunk.sequence for chunk in chunks}) == len(chunks)
    assert all(1 <= chunk.tokens <= min(prefill_chunk, members[chunk.sequence].pending) for chunk in chunks)
    assert not {chunk.sequence for chunk in chunks} & set(preempted)
    assert list(preempted) == sorted(preempted, reverse=True)
    assert not (preempted and decided.admitted), "who gave its blocks back must not wait behind who came later"
    at_work = {chunk.sequence for chunk in chunks}
    for index, one in enumerate(running):
        if one.pending == 1 and index not in at_work | set(preempted):  # no block is left that its token needs
            assert len(one.run) == len(one.blocks) * limits.block_positions
            assert preempted or pool.available < len(members)
    runs_at_once = [members[chunk.sequence].pending == 1 for chunk in chunks if chunk.sequence < len(running)]
    assert runs_at_once == sorted(runs_at_once, reverse=True), "decodes are not first"
    assert at_work >= set(range(len(running), len(members)))
    assert chunks or preempted or not (running or waiting)
    urgent = bool(waiting) and not waiting[0].yields
    assert 0 not in preempted or (running[0].yields and urgent), "the first one gives way to who must not wait alone"
    if decided.admitted < len(waiting) and not preempted:  # the head waits only for want of a slot, tokens or blocks
        needed = sum(max(one.reserve(pool), len(one.blocks)) - len(one.blocks) for one in members)
        full = sum(chunk.tokens for chunk in chunks) == limits.step_tokens or len(members) == slots(limits)
        assert full or waiting[decided.admitted].reserve(pool) > pool.available - needed


def _run(work: list[tuple[Simulated, int]], running: list[Simulated], pool: BlockPool) -> None:
    for request, tokens in work:
        request.run += range(len(request.run), len(request.run) + tokens)
        assert request.table is not None
        request.table.grow(len(request.run))
        request.drawn += request.pending == 0
    owned = [block for request in running for block in request.blocks]
    assert len(owned) == len(set(owned)) == pool.used


def _preempt(request: Simulated) -> Simulated:
    assert request.table is not None
    request.table.close()
    request.run.clear()
    return request


def _leaves(request: Simulated, step: int) -> bool:
    gone = request.leaves_after is not None and step - request.admitted_at >= request.leaves_after
    if gone or request.drawn == request.answer:
        assert request.table is not None
        request.table.close()
        return True
    return False


def test_decodes_run_before_prompts_and_prompts_share_what_is_left_in_order() -> None:
    state = SchedulerState(
        [RunningSequence(20), RunningSequence(1), RunningSequence(9)], [WaitingSequence(5, 1)], blocks=9
    )
    decided = schedule(state, LIMITS, prefill_chunk=4)
    assert decided == Schedule(0, (ScheduledChunk(1, 1), ScheduledChunk(0, 4), ScheduledChunk(2, 3)))


def test_a_prompt_is_admitted_into_the_tokens_that_decodes_leave() -> None:
    state = SchedulerState(
        [RunningSequence(1), RunningSequence(1)], [WaitingSequence(20, 6), WaitingSequence(3, 1)], blocks=9
    )
    assert schedule(state, LIMITS, prefill_chunk=8) == Schedule(
        1, (ScheduledChunk(0, 1), ScheduledChunk(1, 1), ScheduledChunk(2, 6))
    )


def test_nobody_overtakes_a_head_that_waits_for_blocks() -> None:
    state = SchedulerState([RunningSequence(1)], [WaitingSequence(20, 6), WaitingSequence(3, 1)], blocks=6)
    assert schedule(state, LIMITS, prefill_chunk=8) == Schedule(0, (ScheduledChunk(0, 1),))


def test_nobody_is_admitted_into_blocks_that_those_at_work_need_soon() -> None:
    running = RunningSequence(1, sent=4, blocks=(0,), reserve=3)
    for free, admitted in ((3, 0), (4, 1)):
        decided = schedule(SchedulerState([running], [WaitingSequence(3, 2)], free), LIMITS, prefill_chunk=8)
        assert decided.admitted == admitted


def test_a_request_that_takes_over_what_another_one_runs_is_admitted_without_tokens() -> None:
    state = SchedulerState([RunningSequence(6)], [WaitingSequence(0, 2), WaitingSequence(3, 1)], blocks=9)
    assert schedule(state, LIMITS, prefill_chunk=8) == Schedule(2, (ScheduledChunk(0, 6), ScheduledChunk(2, 2)))


def test_where_blocks_run_out_those_admitted_last_give_theirs_back_but_none_that_workers_use() -> None:
    decodes = [RunningSequence(1, sent=4 * (1 + index), blocks=range(8 * index, 9 * index + 1)) for index in range(3)]
    assert schedule(SchedulerState(decodes, [WaitingSequence(1, 1)], 1), LIMITS, prefill_chunk=8) == Schedule(
        0, (ScheduledChunk(0, 1), ScheduledChunk(1, 1)), (2,)
    )
    used = [*decodes[:2], RunningSequence(0, sent=12, blocks=range(16, 19), under_way=True)]
    assert schedule(SchedulerState(used, [], 0), LIMITS, prefill_chunk=8) == Schedule(0, (ScheduledChunk(0, 1),), (1,))


def test_blocks_that_others_hold_too_make_no_room() -> None:
    first = RunningSequence(1, sent=8, blocks=(0, 1))
    shared, own = RunningSequence(1, sent=9, blocks=(2, 3, 4)), RunningSequence(1, sent=8, blocks=(2, 3))
    assert schedule(SchedulerState([first, shared, own], [], 0), LIMITS, prefill_chunk=8).preempted == (2, 1)


def test_a_batch_request_makes_room_for_one_that_is_none_and_for_no_other() -> None:
    batch = [RunningSequence(1, sent=4 * n, blocks=range(8 * n, 9 * n), reserve=n + 1, yields=True) for n in (1, 2)]
    full = [RunningSequence(1), RunningSequence(1), *batch]
    for yields, preempted in ((False, (3,)), (True, ())):
        decided = schedule(SchedulerState(full, [WaitingSequence(3, 1, yields)], 9), LIMITS, prefill_chunk=8)
        assert (decided.preempted, decided.admitted) == (preempted, 0)
        assert [chunk.sequence for chunk in decided.chunks] == [0, 1, 2, 3][: 4 - len(preempted)]
    few_blocks = SchedulerState(batch, [WaitingSequence(3, 4)], 5)
    assert schedule(few_blocks, LIMITS, prefill_chunk=8).preempted == (1,)
    assert schedule(replace(few_blocks, blocks=8), LIMITS, prefill_chunk=8).admitted == 1


def test_a_prompt_runs_as_many_tokens_as_have_blocks() -> None:
    prompts = [RunningSequence(20, sent=3, blocks=(0,)), RunningSequence(5)]
    assert schedule(SchedulerState(prompts, [], 1), LIMITS, prefill_chunk=8).chunks == (ScheduledChunk(0, 5),)


def test_no_more_sequences_are_admitted_than_can_decode_in_one_step() -> None:
    limits = StepLimits(step_tokens=2, sequences=4, context_tokens=64, kv_blocks=16, block_positions=4)
    decided = schedule(SchedulerState([], [WaitingSequence(1, 1)] * 4, blocks=16), limits, prefill_chunk=2)
    assert decided == Schedule(2, (ScheduledChunk(0, 1), ScheduledChunk(1, 1)))
    assert slots(limits) == 2


def test_nothing_to_do_is_an_empty_schedule() -> None:
    assert schedule(SchedulerState([], [], 16), LIMITS, prefill_chunk=8) == Schedule(0, ())
