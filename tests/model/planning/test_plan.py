"""Splitting models: each head and row once, evenly, whatever the sizes; workers placed where they can run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.model.machine.topology import Node, Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import MOST_WORKERS, PANEL_ROWS, Range, ShardPlan, kv_heads_of, split_evenly
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.errors import PlanError
from tests.tiny_model import TinyShape, tiny_spec

GIBIBYTE = 1 << 30


def machine(*cores_of_nodes: int, siblings: int = 1) -> Topology:
    """A machine with so many cores on each node."""
    nodes, first = [], 0
    for node_id, count in enumerate(cores_of_nodes):
        starts = range(first, first + count * siblings, siblings)
        cores = tuple(tuple(range(start, start + siblings)) for start in starts)
        distances = tuple(10 if other == node_id else 21 for other in range(len(cores_of_nodes)))
        nodes.append(Node(node_id, cores, GIBIBYTE, GIBIBYTE, GIBIBYTE, distances, package=node_id))
        first += count * siblings
    return Topology(tuple(nodes))


shapes = st.builds(
    lambda groups, kv_heads, width, experts, expert_width, vocabulary: TinyShape(
        query_heads=groups * kv_heads,
        kv_heads=kv_heads,
        width=width,
        experts=experts,
        expert_width=expert_width,
        vocabulary=vocabulary,
    ),
    st.integers(1, 16),
    st.integers(1, 9),
    st.integers(1, 600),
    st.integers(2, 4),
    st.integers(1, 300),
    st.integers(1, 2000),
)
counts = st.integers(1, MOST_WORKERS)


@given(shapes, counts)
def test_every_head_and_row_is_owned_exactly_once(shape: TinyShape, workers: int) -> None:
    made = make_plan(tiny_spec(shape), machine(4), PlanOptions(workers=workers))
    owned = {
        shape.query_heads: [shard.heads for shard in made.shards],
        shape.width: [shard.width_rows for shard in made.shards],
        shape.expert_width: [shard.expert_rows for shard in made.shards],
        shape.vocabulary: [shard.vocabulary for shard in made.shards],
    }
    for size, ranges in owned.items():
        assert sorted(index for part in ranges for index in range(part.start, part.stop)) == list(range(size))


@given(st.integers(1, 5000), st.sampled_from([1, PANEL_ROWS]), counts)
def test_parts_are_whole_units_and_differ_by_at_most_one(size: int, unit: int, parts: int) -> None:
    ranges = split_evenly(size, unit, parts)
    assert all(part.start % unit == 0 or part.start == size for part in ranges)
    assert all(part.stop % unit == 0 or part.stop == size for part in ranges)
    units = [-(-part.size // unit) for part in ranges]
    assert max(units) - min(units) <= 1


@given(shapes, counts)
def test_key_value_heads_are_just_those_that_the_query_heads_read(shape: TinyShape, workers: int) -> None:
    made = make_plan(tiny_spec(shape), machine(4), PlanOptions(workers=workers))
    group = shape.query_heads // shape.kv_heads
    for shard in made.shards:
        read = {head // group for head in range(shard.heads.start, shard.heads.stop)}
        assert set(range(shard.kv_heads.start, shard.kv_heads.stop)) == read


def test_a_tiny_model_leaves_workers_without_heads() -> None:
    spec = tiny_spec(TinyShape(query_heads=4, kv_heads=2, width=32))
    made = make_plan(spec, machine(8), PlanOptions(workers=8))
    assert [shard.heads.size for shard in made.shards] == [0, 1] * 4
    assert [shard.kv_heads.size for shard in made.shards] == [0, 1] * 4
    assert kv_heads_of(spec, Range(1, 1)).size == 0
    assert sum(shard.width_rows.size for shard in made.shards) == 32


@pytest.mark.parametrize("workers", [-1, 0, 9, 64])
def test_an_impossible_number_of_workers_is_refused(workers: int) -> None:
    with pytest.raises(PlanError, match=f"workers: found {workers}, expected 1 to 8"):
        make_plan(tiny_spec(TinyShape()), machine(4), PlanOptions(workers=workers))


@pytest.mark.parametrize("threads", [0, 513])
def test_an_impossible_number_of_threads_is_refused(threads: int) -> None:
    with pytest.raises(PlanError, match=f"threads per worker: found {threads}, expected 1 to 512"):
        make_plan(tiny_spec(TinyShape()), machine(4), PlanOptions(threads_per_worker=threads))


@pytest.mark.parametrize("nodes", [(2,), (0, 0), (-1,)])
def test_nodes_that_are_not_there_or_named_twice_are_refused(nodes: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="nodes: found"):
        make_plan(tiny_spec(TinyShape()), machine(4, 4), PlanOptions(nodes=nodes))


def place(topology: Topology, options: PlanOptions | None = None) -> ShardPlan:
    return make_plan(tiny_spec(TinyShape()), topology, options)


def test_each_node_gets_a_worker_with_a_thread_per_core() -> None:
    made = place(machine(4, 4, siblings=2))
    assert [(shard.node, shard.cpus) for shard in made.shards] == [(0, (0, 2, 4, 6)), (1, (8, 10, 12, 14))]
    assert made.notes == ()


def test_more_threads_than_cores_take_the_siblings_and_then_turns() -> None:
    made = place(machine(2, siblings=2), PlanOptions(threads_per_worker=3))
    assert made.shards[0].cpus == (0, 2, 1)
    assert made.notes == ()
    made = place(machine(2), PlanOptions(threads_per_worker=3))
    assert made.shards[0].cpus == (0, 1, 0)
    assert any("take turns" in note for note in made.notes)


def test_a_core_with_one_usable_sibling_does_not_hide_the_others() -> None:
    node = Node(0, ((0, 1), (2,)), GIBIBYTE, GIBIBYTE, GIBIBYTE, (10,), package=0)
    assert place(Topology((node,)), PlanOptions(threads_per_worker=3)).shards[0].cpus == (0, 2, 1)


def test_workers_of_one_node_share_its_cores_out() -> None:
    made = place(machine(5), PlanOptions(workers=2))
    assert [shard.cpus for shard in made.shards] == [(0, 1), (2, 3, 4)]
    assert any("share the cores out" in note for note in made.notes)
    assert any("differ in threads (2, 3)" in note for note in made.notes)


def test_workers_share_single_cores_when_there_are_too_few() -> None:
    made = place(machine(2), PlanOptions(workers=4))
    assert [shard.cpus for shard in made.shards] == [(0,), (0,), (1,), (1,)]
    assert any("more threads (4) than CPUs" in note for note in made.notes)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), counts)
def test_every_worker_runs_on_cpus_of_its_own_node(cores: list[int], workers: int) -> None:
    topology = machine(*cores)
    made = place(topology, PlanOptions(workers=workers))
    for shard in made.shards:
        assert shard.cpus
        assert set(shard.cpus) <= set(topology.node(shard.node).cpus)
    used = [cpu for shard in made.shards for cpu in shard.cpus]
    assert len(set(used)) == len(used) or workers > len(cores)


def test_extra_workers_spread_over_the_nodes() -> None:
    made = place(machine(4, 4), PlanOptions(workers=3))
    assert [(shard.node, shard.cpus) for shard in made.shards] == [(0, (0, 1)), (0, (2, 3)), (1, (4, 5, 6, 7))]


def test_fewer_workers_than_nodes_leave_nodes_idle_and_say_so() -> None:
    made = place(machine(1, 1, 1), PlanOptions(workers=1))
    assert [shard.node for shard in made.shards] == [0]
    assert made.notes == ("fewer workers (1) than NUMA nodes (3): node 1-2 stays idle",)


def test_more_than_eight_nodes_are_used_up_to_eight() -> None:
    assert len(place(machine(*[1] * 10)).shards) == 8


def test_chosen_nodes_are_taken_in_their_order() -> None:
    made = place(machine(2, 2, 2), PlanOptions(nodes=(2, 0)))
    assert [shard.node for shard in made.shards] == [2, 0]


@pytest.mark.parametrize(("name", "note"), [("memory-less", "no usable memory"), ("cpu-less", "no usable CPUs")])
def test_nodes_with_only_cpus_or_only_memory_are_left_out(recorded_machines: Path, name: str, note: str) -> None:
    made = place(read_topology(recorded_machines / name))
    assert [shard.node for shard in made.shards] == [0, 1]
    assert any("node 2 has" in line and note in line for line in made.notes)


def test_cpus_without_own_memory_use_the_nearest_when_there_is_nothing_else() -> None:
    cores = ((0,), (1,))
    nodes = (
        Node(0, cores, 0, 0, 0, (10, 40, 20), package=0),
        Node(1, (), GIBIBYTE, GIBIBYTE, GIBIBYTE, (40, 10, 40)),
        Node(2, (), GIBIBYTE, GIBIBYTE, GIBIBYTE, (20, 40, 10)),
    )
    made = place(Topology(nodes))
    assert [(shard.node, shard.cpus) for shard in made.shards] == [(2, (0, 1))]
    assert any("nearest node" in note for note in made.notes)


def test_a_machine_without_usable_cpus_is_refused() -> None:
    with pytest.raises(PlanError, match="usable CPU"):
        place(Topology((Node(0, (), GIBIBYTE, GIBIBYTE, GIBIBYTE, (10,)),)))


def test_the_same_arguments_give_the_same_plan(recorded_machines: Path) -> None:
    topology = read_topology(recorded_machines / "four-nodes")
    assert place(topology) == place(topology)
