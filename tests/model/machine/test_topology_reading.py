"""Reading machines: recorded trees of real kernels, restricted processes, and kernels that tell little."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from numoe.model.machine.topology_reading import read_topology
from numoe.protos.errors import SetupError


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def two_sockets(recorded_machines: Path, tmp_path: Path) -> Path:
    """A copy of the recorded machine, to change."""
    return Path(shutil.copytree(recorded_machines / "two-sockets", tmp_path / "machine"))


def test_cores_group_their_hardware_threads(recorded_machines: Path) -> None:
    topology = read_topology(recorded_machines / "two-sockets")
    assert [node.cores for node in topology.nodes] == [
        ((0, 1), (2, 3), (4, 5), (6, 7)),
        ((8, 9), (10, 11), (12, 13), (14, 15)),
    ]
    assert topology.cpus == tuple(range(16))
    assert topology.packages == (0, 1)


def test_memory_is_counted_in_bytes(recorded_machines: Path) -> None:
    node = read_topology(recorded_machines / "two-sockets").nodes[0]
    assert node.memory_bytes == 467628 * 1024
    assert node.free_bytes == 426452 * 1024
    assert node.free_bytes < node.available_bytes < node.memory_bytes


def test_what_the_page_cache_holds_counts_as_available(two_sockets: Path) -> None:
    fields = {"MemTotal": 100, "MemFree": 10, "FilePages": 30, "Shmem": 7, "SReclaimable": 5, "AnonPages": 40}
    lines = "".join(f"Node 1 {name}: {count:>10} kB\n" for name, count in fields.items())
    write(two_sockets / "sys/devices/system/node/node1/meminfo", lines + "Node 1 HugePages_Total:     0\n")
    node = read_topology(two_sockets).node(1)
    assert (node.memory_bytes, node.free_bytes, node.available_bytes) == (102_400, 10_240, (10 + 30 - 7 + 5) * 1024)


def test_distances_are_those_of_the_firmware(recorded_machines: Path) -> None:
    topology = read_topology(recorded_machines / "four-nodes")
    assert [node.id for node in topology.nodes] == [0, 1, 2, 3]
    assert topology.node(1).distances == (21, 10, 21, 21)
    assert (topology.distance(0, 0), topology.distance(0, 3)) == (10, 21)


def test_a_node_without_memory_keeps_its_cores(recorded_machines: Path) -> None:
    node = read_topology(recorded_machines / "memory-less").node(2)
    assert node.cores == ((2,), (3,))
    assert (node.memory_bytes, node.free_bytes, node.available_bytes) == (0, 0, 0)


def test_a_node_without_cpus_keeps_its_memory(recorded_machines: Path) -> None:
    topology = read_topology(recorded_machines / "cpu-less")
    node = topology.node(2)
    assert (node.cores, node.package, node.memory_bytes) == ((), None, 515740 * 1024)
    assert topology.packages == (0, 1)


def test_caches_name_the_cpus_that_share_them(recorded_machines: Path) -> None:
    caches = read_topology(recorded_machines / "two-sockets").caches
    assert {(cache.cpus, cache.bytes) for cache in caches if cache.level == 3} == {
        (tuple(range(8)), 16 << 20),
        (tuple(range(8, 16)), 16 << 20),
    }
    assert {cache.kind for cache in caches if cache.level == 1} == {"Data", "Instruction"}


def test_huge_pages_and_balancing_are_the_kernels_word(two_sockets: Path) -> None:
    write(two_sockets / "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    write(two_sockets / "proc/sys/kernel/numa_balancing", "1\n")
    write(two_sockets / "sys/devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages", "3\n")
    topology = read_topology(two_sockets)
    assert (topology.transparent_huge_pages, topology.numa_balancing) == ("madvise", True)
    assert topology.node(1).huge_pages_free == ((2 << 20, 0), (1 << 30, 3))


def test_cpus_outside_the_affinity_are_left_out_and_named(two_sockets: Path) -> None:
    write(two_sockets / "proc/self/status", "Name:\tnumoe\nCpus_allowed_list:\t0-2,9\nMems_allowed_list:\t0-1\n")
    topology = read_topology(two_sockets)
    assert [node.cores for node in topology.nodes] == [((0, 1), (2,)), ((9,),)]
    assert topology.forbidden_cpus == (3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15)
    assert topology.forbidden_nodes == ()


def test_memory_outside_the_cpuset_is_left_out_and_named(two_sockets: Path) -> None:
    write(two_sockets / "proc/self/status", "Cpus_allowed_list:\t0-15\nMems_allowed_list:\t1\n")
    topology = read_topology(two_sockets)
    assert [node.memory_bytes > 0 for node in topology.nodes] == [False, True]
    assert len(topology.node(0).cores) == 4
    assert topology.forbidden_nodes == (0,)


def test_a_kernel_without_numa_is_one_node(recorded_machines: Path, two_sockets: Path) -> None:
    shutil.rmtree(two_sockets / "sys/devices/system/node")
    topology = read_topology(two_sockets)
    [node] = topology.nodes
    assert (node.id, len(node.cores), node.cpus, node.distances) == (0, 8, tuple(range(16)), (10,))
    assert 0 < node.free_bytes < node.memory_bytes


def test_missing_core_files_make_each_cpu_a_core(two_sockets: Path) -> None:
    shutil.rmtree(two_sockets / "sys/devices/system/cpu")
    topology = read_topology(two_sockets)
    assert topology.node(1).cores == tuple((cpu,) for cpu in range(8, 16))
    assert topology.caches == ()


def test_a_missing_distance_table_reads_as_linux_assumes_it(two_sockets: Path) -> None:
    for node in ("node0", "node1"):
        (two_sockets / f"sys/devices/system/node/{node}/distance").unlink()
    assert [node.distances for node in read_topology(two_sockets).nodes] == [(10, 20), (20, 10)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sys/devices/system/node/online", "0-9999999999"),
        ("sys/devices/system/node/node0/cpulist", "three"),
        ("proc/self/status", "Cpus_allowed_list:\t0-99999999999"),
        ("sys/devices/system/node/node1/distance", "far 10"),
    ],
)
def test_a_copy_that_linux_did_not_write_is_refused_with_its_folder(two_sockets: Path, file: str, text: str) -> None:
    write(two_sockets / file, text)
    with pytest.raises(SetupError, match="machine: what /sys and /proc say of the machine cannot be read: "):
        read_topology(two_sockets)


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [(3 << 20, 1 << 20, 2 << 20), (1 << 20, 2 << 20, 0), ("max", 0, None), (1 << 50, 0, None)],
)
def test_the_limit_of_the_cgroup_leaves_what_is_not_used(
    two_sockets: Path, limit: int | str, used: int, left: int | None
) -> None:
    write(two_sockets / "proc/self/cgroup", "0::/pod")
    write(two_sockets / "sys/fs/cgroup/pod/memory.max", str(limit))
    write(two_sockets / "sys/fs/cgroup/pod/memory.current", str(used + 4096))
    write(two_sockets / "sys/fs/cgroup/pod/memory.stat", "file 4096")
    assert read_topology(two_sockets).memory_left == left


def test_nodes_that_are_offline_are_not_there(two_sockets: Path) -> None:
    write(two_sockets / "sys/devices/system/node/online", "1\n")
    write(two_sockets / "sys/devices/system/node/node1/distance", "10\n")
    topology = read_topology(two_sockets)
    assert [node.id for node in topology.nodes] == [1]
    assert topology.distance(1, 1) == 10


def test_this_machine_offers_what_its_affinity_allows() -> None:
    topology = read_topology()
    assert set(topology.cpus) == os.sched_getaffinity(0)
    assert not set(topology.cpus) & set(topology.forbidden_cpus)
    assert sum(node.memory_bytes for node in topology.nodes) > 0
