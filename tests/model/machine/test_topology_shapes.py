"""The machines that people have: sockets, sub-NUMA clusters, memory without CPUs; and plans on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.splitting import make_plan
from tests.machines import (
    CXL,
    EPYC_9755,
    NPS4_ONE_SOCKET,
    ONE_SOCKET,
    SNC4_ONE_SOCKET,
    SNC4_TWO_SOCKETS,
    TWO_EPYC_9755_NPS4,
    TWO_XEON_6138,
    TWO_XEON_6138_IN_TURN,
    XEON_6138,
    Machine,
    restrict,
    write_machine,
)
from tests.tiny_model import TinyShape, tiny_spec

Folder = Callable[[Machine], Path]
GIB = 1 << 30

SHAPES = {
    "one socket": ONE_SOCKET,
    "two Xeons": TWO_XEON_6138,
    "two Xeons, nodes numbered in turn": TWO_XEON_6138_IN_TURN,
    "SNC-4": SNC4_ONE_SOCKET,
    "SNC-4 on two sockets": SNC4_TWO_SOCKETS,
    "NPS-4": NPS4_ONE_SOCKET,
    "NPS-4 on two sockets": TWO_EPYC_9755_NPS4,
    "CXL": CXL,
}
every_shape = pytest.mark.parametrize("machine", SHAPES.values(), ids=SHAPES.keys())


def level3(topology: Topology) -> list[tuple[int, ...]]:
    return [cache.cpus for cache in topology.caches if cache.level == 3]


@every_shape
def test_nodes_cores_and_siblings_are_those_of_the_machine(described_machine: Folder, machine: Machine) -> None:
    topology = read_topology(described_machine(machine))
    assert topology.packages == tuple(range(machine.packages))
    assert len(topology.nodes) == machine.nodes
    for package in topology.packages:
        own = [node for node in topology.nodes if node.package == package]
        assert len(own) == machine.nodes_per_package
        assert all(not node.other_packages for node in own)
    for node in topology.nodes[: machine.cpu_nodes]:
        assert len(node.cores) == machine.cores_per_node
        assert {len(core) for core in node.cores} == {machine.threads_per_core}
        assert node.memory_bytes == machine.memory_gib[0] * GIB
    assert topology.cpus == tuple(range(machine.cores * machine.threads_per_core))
    assert topology.processor.name == machine.chip.name
    assert not topology.processor.virtual


@every_shape
def test_a_plan_puts_a_worker_with_a_thread_per_core_on_each_node(described_machine: Folder, machine: Machine) -> None:
    topology = read_topology(described_machine(machine))
    made = make_plan(tiny_spec(TinyShape()), topology)
    assert [shard.node for shard in made.shards] == list(range(machine.cpu_nodes))
    for shard in made.shards:
        assert shard.cpus == tuple(core[0] for core in topology.node(shard.node).cores)
    left_out = [f"node {node} has memory but no usable CPUs: left out" for node in range(machine.nodes)]
    assert made.notes == tuple(left_out[machine.cpu_nodes :])


def test_two_xeons_number_siblings_last(described_machine: Folder) -> None:
    topology = read_topology(described_machine(TWO_XEON_6138))
    assert topology.node(0).cores[:2] == ((0, 40), (1, 41))
    assert topology.node(1).cores[-1] == (39, 79)
    assert level3(topology) == [(*range(20), *range(40, 60)), (*range(20, 40), *range(60, 80))]
    assert [node.distances for node in topology.nodes] == [(10, 21), (21, 10)]


def test_some_firmware_numbers_the_nodes_in_turn(described_machine: Folder) -> None:
    topology = read_topology(described_machine(TWO_XEON_6138_IN_TURN))
    assert topology.node(0).cpus == tuple(range(0, 80, 2))
    assert topology.node(1).cores[:2] == ((1, 41), (3, 43))


def test_clusters_share_the_cache_that_the_kernel_says_the_package_has(described_machine: Folder) -> None:
    topology = read_topology(described_machine(SNC4_TWO_SOCKETS))
    assert [node.package for node in topology.nodes] == [0] * 4 + [1] * 4
    assert level3(topology) == [(*range(56), *range(112, 168)), (*range(56, 112), *range(168, 224))]
    assert topology.node(5).distances == (21, 21, 21, 21, 12, 10, 12, 12)


def test_an_epyc_s_cores_share_a_cache_by_eights(described_machine: Folder) -> None:
    topology = read_topology(described_machine(TWO_EPYC_9755_NPS4))
    shared = level3(topology)
    assert len(shared) == 32
    assert shared[5] == (*range(40, 48), *range(296, 304))
    assert all(sum(set(cache) <= set(node.cpus) for node in topology.nodes) == 1 for cache in shared)
    assert (topology.distance(0, 3), topology.distance(3, 4)) == (12, 32)


def test_memory_behind_cxl_is_a_node_of_no_package(described_machine: Folder) -> None:
    topology = read_topology(described_machine(CXL))
    node = topology.node(2)
    assert (node.package, node.cores, node.memory_bytes) == (None, (), 256 * GIB)
    assert topology.distance(0, 2) < topology.distance(1, 2)


def test_interleaving_firmware_shows_two_packages_as_one_node(tmp_path: Path) -> None:
    topology = read_topology(write_machine(tmp_path, Machine(XEON_6138, 2, 0, 8, 2, (384,))))
    [node] = topology.nodes
    assert (node.package, node.other_packages, topology.packages) == (0, (1,), (0, 1))


def test_a_hypervisor_is_told_from_a_machine(tmp_path: Path) -> None:
    root = write_machine(tmp_path, Machine(EPYC_9755, 1, 1, 2, 1, (4,)))
    path = root / "proc/cpuinfo"
    path.write_text(path.read_text().replace("fpu vme", "fpu hypervisor vme"))
    processor = read_topology(root).processor
    assert processor == replace(processor, vendor="AuthenticAMD", family=26, model=2, virtual=True)


def test_a_restricted_process_gets_the_rest_of_two_sockets(tmp_path: Path) -> None:
    """Half of socket 0 with its siblings, one thread each of two cores of socket 1, whose memory is forbidden."""
    root = write_machine(tmp_path, TWO_XEON_6138)
    restrict(root, "0-9,40-49,20,61", "0")
    topology = read_topology(root)
    assert topology.node(0).cores == tuple((core, core + 40) for core in range(10))
    assert topology.node(1).cores == ((20,), (61,))
    assert (topology.node(0).memory_bytes, topology.node(1).memory_bytes) == (192 * GIB, 0)
    assert topology.forbidden_nodes == (1,)
    assert len(topology.forbidden_cpus) == 80 - 22
    made = make_plan(tiny_spec(TinyShape()), topology)
    assert [(shard.node, shard.cpus) for shard in made.shards] == [(0, tuple(range(10)))]
    assert made.notes == ("node 1 has CPUs but no usable memory: left out",)


def test_one_cluster_of_four_can_be_all_there_is(tmp_path: Path) -> None:
    root = write_machine(tmp_path, NPS4_ONE_SOCKET)
    restrict(root, "16-23", "2")
    topology = read_topology(root)
    assert [len(node.cores) for node in topology.nodes] == [0, 0, 8, 0]
    assert [node.memory_bytes > 0 for node in topology.nodes] == [False, False, True, False]
    [shard] = make_plan(tiny_spec(TinyShape()), topology).shards
    assert (shard.node, shard.cpus) == (2, tuple(range(16, 24)))
