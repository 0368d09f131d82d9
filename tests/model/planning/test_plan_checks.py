"""A plan that does not fit its model or the machine is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology import Topology
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Shard, ShardPlan, Spread
from numoe.model.planning.plan_checks import check_placement, check_plan, fits_memory
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.model.planning.worker_memory import SERVICE_BYTES, node_bytes, spread_bytes
from numoe.protos.errors import PlanError
from tests.model.planning.examples import LIMITS, sized_spec, small_machine
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape())
MACHINE = small_machine(1)
PLAN = make_plan(SPEC, MACHINE, PlanOptions(workers=2))


def test_a_model_without_a_router_has_no_whole_experts() -> None:
    dense = tiny_spec(TinyShape(architecture="llama", experts=1, active_experts=1))
    made = make_plan(dense, MACHINE, PlanOptions(workers=2))
    with pytest.raises(PlanError, match="layer 0: the model has no experts to hold whole"):
        check_plan(replace(made, experts=(ExpertOwners(((0,),)),) * dense.layers), dense)


def test_a_plan_of_too_many_shards_is_refused() -> None:
    empty = replace(PLAN.shards[0], heads=PLAN.shards[0].heads)
    shards: tuple[Shard, ...] = PLAN.shards + (empty,) * 7
    with pytest.raises(PlanError, match="found 9 shards, expected 1 to 8"):
        check_plan(ShardPlan(SPEC.name, shards, (None,) * SPEC.layers), SPEC)


def test_a_plan_that_fits_to_the_byte_is_accepted_and_one_byte_less_refused() -> None:
    spec = sized_spec(TinyShape())
    made = make_plan(spec, small_machine(1))
    needed = node_bytes(made, spec, LIMITS)[0]
    two = Topology((*small_machine(1, needed).nodes, replace(small_machine(2).nodes[1], available_bytes=SERVICE_BYTES)))
    check_placement(made, spec, two, LIMITS)
    short = Topology((replace(two.nodes[0], available_bytes=needed - 1), two.nodes[1]))
    with pytest.raises(PlanError, match=r"node 0: needs .* MiB for weights, KV cache and working memory"):
        check_placement(made, spec, short, LIMITS)


def test_coordinator_and_ray_need_room_beside_the_workers() -> None:
    spec = sized_spec(TinyShape())
    made = make_plan(spec, small_machine(1))
    needed = node_bytes(made, spec, LIMITS)[0] + SERVICE_BYTES
    check_placement(made, spec, small_machine(1, needed), LIMITS)
    with pytest.raises(PlanError, match=r"all nodes: needs .* MiB for the workers, the coordinator and Ray"):
        check_placement(made, spec, small_machine(1, needed - 1), LIMITS)


def test_the_limit_of_a_cgroup_counts_for_all_nodes_together() -> None:
    spec = sized_spec(TinyShape())
    roomy = small_machine(2)
    made = make_plan(spec, roomy)
    needed = node_bytes(made, spec, LIMITS)
    exact, short = (replace(roomy, memory_left=sum(needed.values()) + SERVICE_BYTES - less) for less in (0, 1))
    check_placement(made, spec, exact, LIMITS)
    assert fits_memory(needed, roomy)
    assert fits_memory(needed, exact)
    assert not fits_memory(needed, short)
    with pytest.raises(PlanError, match=r"the cgroup's memory limit: needs .* MiB .* are available.*MemoryMax"):
        check_placement(made, spec, short, LIMITS)


def test_a_plan_of_another_machine_is_refused() -> None:
    spec = sized_spec(TinyShape())
    made = make_plan(spec, small_machine(2))
    with pytest.raises(PlanError, match="worker 1: node 1 has no memory that we may use here, expected one of 0"):
        check_placement(made, spec, small_machine(1), LIMITS)
    one = small_machine(1)
    moved = replace(made, shards=tuple(replace(shard, node=0) for shard in made.shards))
    with pytest.raises(PlanError, match="worker 1: CPU 1 is not usable here, expected some of 0"):
        check_placement(moved, spec, one, LIMITS)


def spread_plan(spec: ModelSpec, memory: Literal["interleave", "any"], floating: tuple[int, ...] = ()) -> ShardPlan:
    """One worker on two nodes of a core each."""
    return make_plan(spec, small_machine(2), PlanOptions(spread=Spread(memory, (0, 1), floating)))


@pytest.mark.parametrize(("memory", "fits"), [("any", True), ("interleave", False)])
def test_a_small_node_leaves_pages_to_others_but_not_when_they_lie_in_turn(
    memory: Literal["interleave", "any"], fits: bool
) -> None:
    spec = sized_spec(TinyShape())
    made = spread_plan(spec, memory)
    even = node_bytes(made, spec, LIMITS)
    assert sorted(even) == [0, 1]
    assert abs(even[0] - even[1]) <= 1
    need = sum(even.values()) + SERVICE_BYTES
    first, second = small_machine(2).nodes
    uneven = Topology((replace(first, available_bytes=even[0] // 2), replace(second, available_bytes=need)))
    room = {0: even[0] // 2, 1: need}
    assert node_bytes(made, spec, LIMITS, room=room) == (
        {0: room[0], 1: sum(even.values()) - room[0]} if fits else even
    )
    if fits:
        check_placement(made, spec, uneven, LIMITS)
    else:
        with pytest.raises(PlanError, match="node 0: needs"):
            check_placement(made, spec, uneven, LIMITS)


def test_a_worker_on_nodes_or_cpus_that_are_not_here_is_refused() -> None:
    spec = sized_spec(TinyShape())
    with pytest.raises(PlanError, match="worker 0: node 1 has no memory that we may use here, expected one of 0"):
        check_placement(spread_plan(spec, "any"), spec, small_machine(1), LIMITS)
    with pytest.raises(PlanError, match="worker 0: CPU 7 is not usable here, expected some of 0-1"):
        check_placement(spread_plan(spec, "any", (0, 1, 7)), spec, small_machine(2), LIMITS)


@given(st.integers(0, 1 << 40), st.lists(st.integers(0, 1 << 40), min_size=1, max_size=8))
def test_parts_of_nodes_are_all_of_it_and_as_even_as_their_room_allows(size: int, room: list[int]) -> None:
    nodes = range(len(room))
    parts = spread_bytes(size, nodes, dict(enumerate(room)))
    assert sum(parts.values()) == size
    if size <= sum(room):
        assert all(parts[node] <= room[node] for node in nodes)
        most = max(parts.values())
        assert all(parts[node] >= most - len(room) or parts[node] == room[node] for node in nodes)
