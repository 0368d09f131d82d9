"""Moves even out the loads, use no more room than there is, and leave every expert with a holder."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.model.planning.moves import ExpertMove, balance, drain, shares_of
from numoe.model.planning.splitting import Shares, cut_anew, make_plan
from numoe.protos.errors import PlanError
from tests.model.planning.examples import machine
from tests.tiny_model import TinyShape, tiny_spec

SIZE = 10  # bytes of an expert


@st.composite
def layers(draw: st.DrawFn) -> tuple[int, list[ExpertOwners | None], list[list[float]], list[int]]:
    """Workers, who holds what, the loads, and each worker's room."""
    workers = draw(st.integers(2, 5))
    experts = draw(st.integers(1, 16))
    owners: list[ExpertOwners | None] = []
    loads = []
    for _ in range(draw(st.integers(1, 3))):
        holders = st.sets(st.integers(0, workers - 1), min_size=1).map(lambda some: tuple(sorted(some)))
        whole = ExpertOwners(tuple(draw(holders) for _ in range(experts)))
        owners.append(draw(st.sampled_from([whole, None])))
        loads.append([float(draw(st.integers(0, 100))) for _ in range(experts)])
    return workers, owners, loads, [draw(st.integers(0, 60)) for _ in range(workers)]


def carried(owners: ExpertOwners, loads: list[float], workers: int) -> list[float]:
    shares = [0.0] * workers
    for load, holders in zip(loads, owners.workers, strict=True):
        for worker in holders:
            shares[worker] += load / len(holders)
    return shares


def applied(moves: list[ExpertMove], experts: list[ExpertOwners | None], room: list[int]) -> list[ExpertOwners | None]:
    """Make the moves one by one: a source holds what it gives, a target has room for it when it comes."""
    after, left = list(experts), list(room)
    for move in moves:
        owners = after[move.layer]
        assert owners is not None
        assert move.possible(owners)
        if move.target is not None:
            assert left[move.target] >= SIZE
            left[move.target] -= SIZE
        if not move.keep:
            left[move.source] += SIZE
        after[move.layer] = owners = move.applied(owners)
        assert owners.workers[move.expert], "nobody holds it"
    return after


@settings(max_examples=300)
@given(layers())
def test_no_layer_is_loaded_less_evenly_and_room_suffices(
    case: tuple[int, list[ExpertOwners | None], list[list[float]], list[int]],
) -> None:
    workers, experts, loads, room = case
    moves = balance(experts, loads, [SIZE] * len(experts), room)
    after = applied(moves, experts, room)
    for layer, (old, new) in enumerate(zip(experts, after, strict=True)):
        if old is None or new is None:
            assert old is new
            continue
        before, now = (carried(owners, loads[layer], workers) for owners in (old, new))
        assert max(now) <= max(before) + 1e-9  # another worker may be as loaded as the one that was helped
        if any(move.layer == layer for move in moves):
            assert sum(load**2 for load in now) < sum(load**2 for load in before)
    assert not balance(after, loads, [SIZE] * len(experts), [0] * workers)


def test_popular_experts_on_one_worker_are_exchanged_for_quiet_ones() -> None:
    owners = ExpertOwners(((0,), (0,), (1,), (1,)))
    moves = balance([owners], [[8, 7, 1, 2]], [SIZE], [SIZE, SIZE])
    [after] = applied(moves, [owners], [SIZE, SIZE])
    assert after is not None
    assert carried(after, [8, 7, 1, 2], 2) == [9, 9]
    assert after.replicas == 0


def test_without_room_for_one_expert_on_its_way_nothing_moves() -> None:
    owners = ExpertOwners(((0,), (0,), (1,), (1,)))
    assert balance([owners], [[8, 7, 1, 2]], [SIZE], [0, SIZE - 1]) == []


def test_where_the_least_loaded_worker_has_no_room_the_next_one_helps() -> None:
    owners, loads = ExpertOwners(((0,), (0,), (1,), (2,))), [10.0, 10.0, 2.0, 0.0]
    [after] = applied(balance([owners], [loads], [SIZE], [0, 2 * SIZE, 0]), [owners], [0, 2 * SIZE, 0])
    assert after is not None
    assert carried(after, loads, 3) == [11.0, 11.0, 0.0]


def test_one_very_popular_expert_gets_a_replica() -> None:
    owners = share_experts([100, 1, 1, 1], 2)
    moves = balance([owners], [[100, 1, 1, 1]], [SIZE], [5 * SIZE, 5 * SIZE])
    assert ExpertMove(0, 0, 0, 1, keep=True) in moves


def test_layers_without_counts_and_layers_split_by_row_stay() -> None:
    owners = ExpertOwners(((0,), (0,)))
    assert balance([None, owners], [[5, 0], [0, 0]], [SIZE] * 2, [100, 100]) == []


@settings(max_examples=300)
@given(layers(), st.integers(0, 1))
def test_a_drained_worker_holds_nothing_or_the_missing_bytes_are_named(
    case: tuple[int, list[ExpertOwners | None], list[list[float]], list[int]], worker: int
) -> None:
    _, experts, loads, room = case
    alone = sum(owners.workers.count((worker,)) for owners in experts if owners)
    others = sum(have // SIZE for number, have in enumerate(room) if number != worker)
    if alone > others:
        with pytest.raises(PlanError, match=f"worker {worker} cannot be drained: the other workers lack"):
            drain(worker, experts, loads, [SIZE] * len(experts), room)
        return
    for owners in applied(drain(worker, experts, loads, [SIZE] * len(experts), room), experts, room):
        assert owners is None or not owners.held_by(worker)


@pytest.mark.parametrize(
    "move",
    [
        ExpertMove(0, 0, 1, 0),  # the source does not hold it
        ExpertMove(0, 1, 0, 1),  # the target does
        ExpertMove(0, 0, 0, None),  # nobody would hold it
        ExpertMove(0, 0, 1, None),
    ],
)
def test_a_move_for_other_holders_is_not_possible(move: ExpertMove) -> None:
    assert not move.possible(ExpertOwners(((0,), (0, 1))))


def test_a_replica_can_be_given_up() -> None:
    assert ExpertMove(0, 1, 0, None).possible(ExpertOwners(((0,), (0, 1))))


def test_what_is_missing_is_told_in_bytes() -> None:
    owners = ExpertOwners(((0,), (0,), (1,)))
    with pytest.raises(PlanError, match="worker 0 cannot be drained: the other workers lack 10 bytes"):
        drain(0, [owners], [[1, 1, 1]], [SIZE], [0, SIZE])


def test_loads_are_brought_to_the_shares_that_workers_are_to_carry() -> None:
    """A worker of a weak node, which a plan gave less, is not given as much as the others by the way."""
    loads, plenty = [10.0] * 16, [100 * SIZE] * 2
    due = share_experts(loads, 2, shares=(3.0, 1.0))
    assert balance([due], [loads], [SIZE], plenty, (3.0, 1.0)) == []
    moves = balance([share_experts(loads, 2)], [loads], [SIZE], plenty, (3.0, 1.0))
    [after] = applied(moves, [share_experts(loads, 2)], plenty)
    assert after is not None
    assert carried(after, loads, 2) == [pytest.approx(120.0, abs=3.3), pytest.approx(40.0, abs=3.3)]


@settings(max_examples=100)
@given(layers(), st.lists(st.floats(0.1, 10.0), min_size=5, max_size=5))
def test_moves_towards_unequal_shares_come_to_an_end_and_can_be_made(
    case: tuple[int, list[ExpertOwners | None], list[list[float]], list[int]], shares: list[float]
) -> None:
    workers, experts, loads, room = case
    after = applied(balance(experts, loads, [SIZE] * len(experts), room, shares[:workers]), experts, room)
    for old, new, load in zip(experts, after, loads, strict=True):
        if old is not None and new is not None:
            spread = [
                sum(own**2 / share for own, share in zip(carried(one, load, workers), shares, strict=False))
                for one in (old, new)
            ]
            assert spread[1] <= spread[0] + 1e-9


def test_a_plan_says_what_each_worker_is_to_carry() -> None:
    spec = tiny_spec(TinyShape(width=1280))
    even = make_plan(spec, machine(4, 4, 4))
    assert shares_of(even.shards) == [1.0] * 3
    parts = (0.5, 0.3, 0.2)
    assert shares_of(cut_anew(even, spec, Shares(parts, parts, parts, parts)).shards) == [640.0, 384.0, 256.0]
