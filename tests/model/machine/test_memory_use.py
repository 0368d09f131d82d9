"""What a node's memory is used for is what the kernel's files say."""

from __future__ import annotations

from pathlib import Path

from numoe.model.machine.memory_use import read_node_memory
from numoe.model.machine.topology_reading import read_topology

KIB = 1024


def test_every_node_of_a_recorded_machine_is_read(recorded_machines: Path) -> None:
    root = recorded_machines / "two-sockets"
    for node, memory in zip(read_topology(root).nodes, read_node_memory((0, 1), root), strict=True):
        assert (memory.node, memory.total_bytes, memory.free_bytes) == (node.id, node.memory_bytes, node.free_bytes)
        lines = (root / f"sys/devices/system/node/node{node.id}/meminfo").read_text().splitlines()
        told = {line.split()[2].rstrip(":"): int(line.split()[3]) * KIB for line in lines}
        assert memory.page_cache_bytes == told["FilePages"] - told["Shmem"]
        assert (memory.shared_bytes, memory.anonymous_bytes) == (told["Shmem"], told["AnonPages"])
        assert memory.transparent_huge_bytes == told["AnonHugePages"] + told["ShmemHugePages"]


def test_huge_pages_are_counted_in_bytes(tmp_path: Path) -> None:
    node = tmp_path / "sys/devices/system/node/node1"
    for size, pages, free in ((2048, 10, 3), (1048576, 2, 1)):
        folder = node / f"hugepages/hugepages-{size}kB"
        folder.mkdir(parents=True)
        (folder / "nr_hugepages").write_text(f"{pages}\n")
        (folder / "free_hugepages").write_text(f"{free}\n")
    (node / "meminfo").write_text("Node 1 MemTotal:  4194304 kB\nNode 1 MemFree:  1024 kB\n")
    [memory] = read_node_memory([1], tmp_path)
    assert (memory.huge_bytes, memory.huge_free_bytes) == ((10 << 21) + (2 << 30), (3 << 21) + (1 << 30))
    assert (memory.total_bytes, memory.free_bytes, memory.page_cache_bytes) == (4 << 30, 1 << 20, 0)


def test_a_machine_without_nodes_has_all_its_memory_on_node_0(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    lines = ("MemTotal: 1000 kB", "MemFree: 200 kB", "Cached: 300 kB", "Shmem: 100 kB", "AnonPages: 400 kB")
    (tmp_path / "proc/meminfo").write_text("\n".join(lines))
    [memory] = read_node_memory([0], tmp_path)
    assert (memory.node, memory.total_bytes, memory.page_cache_bytes) == (0, 1000 * KIB, 200 * KIB)
    assert (memory.shared_bytes, memory.anonymous_bytes) == (100 * KIB, 400 * KIB)
