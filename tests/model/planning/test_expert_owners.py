"""Experts shared out whole: everyone has a holder, memory is even, and the hottest have the replicas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.expert_owners import ExpertOwners, carried_loads, share_experts
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.errors import PlanError
from tests.tiny_model import TinyShape, tiny_spec

loads_of = st.lists(st.floats(0, 1000), min_size=1, max_size=40)


@given(loads_of, st.integers(1, 8), st.integers(0, 60))
def test_every_expert_is_held_and_workers_hold_equally_many(loads: list[float], workers: int, replicas: int) -> None:
    owners = share_experts(loads, workers, replicas)
    assert len(owners.workers) == len(loads)
    for holders in owners.workers:
        assert holders
        assert list(holders) == sorted(set(holders))
        assert set(holders) <= set(range(workers))
    first = share_experts(loads, workers)
    assert first.replicas == 0
    counts = [len(first.held_by(worker)) for worker in range(workers)]
    assert max(counts) - min(counts) <= 1
    most = -(-replicas // workers)
    for worker in range(workers):
        assert set(first.held_by(worker)) <= set(owners.held_by(worker))
        assert len(owners.held_by(worker)) <= counts[worker] + most
    assert owners.replicas <= replicas


@given(loads_of, st.integers(1, 8), st.integers(0, 60))
def test_masks_and_lists_say_the_same(loads: list[float], workers: int, replicas: int) -> None:
    owners = share_experts(loads, workers, replicas)
    for worker in range(workers):
        assert [bool(mask >> worker & 1) for mask in owners.masks] == [
            expert in owners.held_by(worker) for expert in range(len(loads))
        ]


def test_equal_experts_are_shared_out_in_runs() -> None:
    assert share_experts([1.0] * 5, 2) == ExpertOwners(((0,), (0,), (0,), (1,), (1,)))


def test_the_heaviest_are_kept_apart_and_the_hottest_replicated() -> None:
    owners = share_experts([8.0, 7.0, 1.0, 1.0], 2, replicas=1)
    assert owners.workers[1] == (1,)
    assert owners.workers[0] == (0, 1)
    assert owners.held_by(0) == (0, 3)


def test_a_quarter_of_replicas_is_a_quarter_of_the_experts() -> None:
    spec = tiny_spec(TinyShape(experts=16, active_experts=4))
    machine = Topology(tuple(Node(i, ((i,),), 1 << 30, 1 << 30, 1 << 30, (10, 10), package=i) for i in range(2)))
    made = make_plan(spec, machine, PlanOptions(split="expert", replicas=0.25))
    assert made.split == "expert"
    assert [owners.replicas for owners in made.experts if owners] == [4] * spec.layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PlanOptions(workers=2, split="expert", replicas=1.5), "replicas: found 1.5, expected 0 to 1"),
        (PlanOptions(workers=2, split="expert", replicas=-0.5), "replicas: found -0.5, expected 0 to 1"),
        (PlanOptions(workers=2, replicas=0.5), "replicas: whole experts have them"),
    ],
)
def test_impossible_replicas_are_refused(options: PlanOptions, message: str) -> None:
    machine = Topology((Node(0, ((0,), (1,)), 1 << 30, 1 << 30, 1 << 30, (10,), package=0),))
    with pytest.raises(PlanError, match=message):
        make_plan(tiny_spec(TinyShape()), machine, options)


def test_a_dense_model_has_no_experts_to_hold_whole() -> None:
    dense = tiny_spec(TinyShape(architecture="llama", experts=1, active_experts=1))
    machine = Topology((Node(0, ((0,),), 1 << 30, 1 << 30, 1 << 30, (10,), package=0),))
    with pytest.raises(PlanError, match="has no experts to hold whole; choose the tensor split"):
        make_plan(dense, machine, PlanOptions(split="expert"))


@given(st.lists(st.integers(0, 100), min_size=1, max_size=40), st.lists(st.floats(0.05, 10.0), min_size=1, max_size=8))
def test_unequal_shares_are_held_and_loaded_in_proportion(loads: list[int], shares: list[float]) -> None:
    owners = share_experts(loads, len(shares), shares=shares)
    assert all(len(some) == 1 for some in owners.workers)
    for worker, share in enumerate(shares):
        assert abs(len(owners.held_by(worker)) - len(loads) * share / sum(shares)) <= 1.0 + 1e-9


def test_the_load_of_unequal_shares_follows_them() -> None:
    loads = [1000 // (rank + 1) for rank in range(128)]
    owners = share_experts(loads, 2, shares=(3.0, 1.0))
    carried = carried_loads(loads, owners.workers, 2)
    assert carried[0] / sum(loads) == pytest.approx(0.75, abs=0.02)
