"""Workers run where there are CPUs and memory, on cores of their own where there are enough."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.model.machine.topology import Node, Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import MOST_WORKERS, ShardPlan
from numoe.model.planning.prediction.candidates import Wishes
from numoe.model.planning.prediction.planner import choose_plan
from numoe.model.planning.prediction.speeds import guessed_speeds
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.errors import PlanError
from tests.machines import EPYC_9755, XEON_6138, Machine, write_machine
from tests.model.planning.examples import GIBIBYTE, machine
from tests.tiny_model import TinyShape, tiny_spec


def place(topology: Topology, options: PlanOptions | None = None) -> ShardPlan:
    return make_plan(tiny_spec(TinyShape()), topology, options)


@pytest.mark.parametrize("workers", [-1, 0, 9, 64])
def test_an_impossible_number_of_workers_is_refused(workers: int) -> None:
    with pytest.raises(PlanError, match=f"workers: found {workers}, expected 1 to 8"):
        place(machine(4), PlanOptions(workers=workers))


@pytest.mark.parametrize("threads", [0, 513])
def test_an_impossible_number_of_threads_is_refused(threads: int) -> None:
    with pytest.raises(PlanError, match=f"threads per worker: found {threads}, expected 1 to 512"):
        place(machine(4), PlanOptions(threads_per_worker=threads))


@pytest.mark.parametrize("nodes", [(2,), (0, 0), (-1,)])
def test_nodes_that_are_not_there_or_named_twice_are_refused(nodes: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="nodes: found"):
        place(machine(4, 4), PlanOptions(nodes=nodes))


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


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, MOST_WORKERS))
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


def test_of_more_packages_than_workers_eight_are_used_and_the_rest_is_told() -> None:
    made = place(machine(*[1] * 10))
    assert [shard.node for shard in made.shards] == list(range(8))
    assert "fewer workers (8) than NUMA nodes (10): node 8-9 stays idle" in made.notes


@pytest.mark.parametrize(("nodes", "cores"), [(8, 16), (16, 8)], ids=["16 nodes", "32 nodes"])
def test_where_every_cache_is_a_node_workers_run_on_several_and_use_all_cores(
    tmp_path: Path, nodes: int, cores: int
) -> None:
    """Two sockets whose firmware says "L3 cache as NUMA domain"."""
    topology = read_topology(write_machine(tmp_path, Machine(EPYC_9755, 2, nodes, cores, 1, (24,))))
    made = place(topology)
    assert [shard.node for shard in made.shards] == [*range(0, 2 * nodes, nodes // 4)]
    assert sorted(cpu for shard in made.shards for cpu in shard.cpus) == list(range(256))
    for shard in made.shards:
        assert len(shard.cpus) == 32
        assert len({topology.node(node.id).package for node in topology.nodes if set(node.cpus) & set(shard.cpus)}) == 1
    [note] = [note for note in made.notes if "several nodes of a package" in note]
    assert f"{2 * nodes} nodes are more than 8, the most workers" in note
    assert place(topology, PlanOptions(workers=4)).shards[3].cpus == topology.node(3).cpus  # as was asked for
    chosen = choose_plan(tiny_spec(TinyShape()), topology, PlanOptions(), Wishes(), guessed_speeds(topology)).best.plan
    assert len(chosen.shards) == 8


def test_packages_of_a_few_nodes_are_not_mixed_where_nodes_are_more_than_workers(tmp_path: Path) -> None:
    topology = read_topology(write_machine(tmp_path, Machine(XEON_6138, 3, 4, 2, 1, (24,))))
    made = place(topology)
    assert [shard.node for shard in made.shards] == [0, 2, 4, 6, 8, 10]
    assert [len(shard.cpus) for shard in made.shards] == [4] * 6


def test_the_memory_of_merged_nodes_is_that_of_the_node_with_most(tmp_path: Path) -> None:
    described = Machine(EPYC_9755, 1, 16, 4, 1, (24,) * 15 + (48,))
    assert [shard.node for shard in place(read_topology(write_machine(tmp_path, described))).shards][-1] == 15


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


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 512), st.sampled_from([None, 1, 3]))
def test_threads_of_all_workers_are_shared_out_by_their_cores(
    cores: list[int], threads: int, workers: int | None
) -> None:
    if workers is not None and threads < workers:
        with pytest.raises(PlanError, match=f"threads: found {threads} of all workers together"):
            place(machine(*cores), PlanOptions(workers=workers, threads=threads))
        return
    shards = place(machine(*cores), PlanOptions(workers=workers, threads=threads)).shards
    counts = [len(shard.cpus) for shard in shards]
    assert sum(counts) == threads
    assert min(counts) >= 1
    if workers is None and threads >= sum(cores):
        assert all(abs(count - threads * own / sum(cores)) <= 1 for count, own in zip(counts, cores, strict=True))
