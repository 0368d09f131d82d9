"""What each NUMA node's memory is used for now: one small file for each node, so that it can be asked every second."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from numoe.model.machine.linux_files import meminfo_bytes, read_number, read_text


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """One node's memory, in bytes; what is in no field belongs to the kernel."""

    node: int
    total_bytes: int
    free_bytes: int
    page_cache_bytes: int  # of files, given back on demand
    shared_bytes: int  # memfd and /dev/shm, the arena among them
    anonymous_bytes: int  # of processes, on pages of any size
    transparent_huge_bytes: int  # of both, on huge pages that nobody had to set aside
    huge_bytes: int  # set aside by the administrator as huge pages
    huge_free_bytes: int  # of them, free


def read_node_memory(nodes: Iterable[int], root: Path = Path("/")) -> tuple[NodeMemory, ...]:
    """Read the use of these nodes below `root`; a kernel without NUMA in /sys has all of its memory on node 0."""
    folder = root / "sys/devices/system/node"
    if not folder.is_dir():
        fields = meminfo_bytes(read_text(root / "proc/meminfo"))
        return (_memory(0, fields, fields.get("Cached", 0), root / "sys/kernel/mm/hugepages"),)
    found = []
    for node in nodes:
        fields = meminfo_bytes(read_text(folder / f"node{node}/meminfo"))
        found.append(_memory(node, fields, fields.get("FilePages", 0), folder / f"node{node}/hugepages"))
    return tuple(found)


def _memory(node: int, fields: dict[str, int], file_pages: int, huge_pages: Path) -> NodeMemory:
    shared = fields.get("Shmem", 0)
    sizes = list(huge_pages.glob("hugepages-*kB"))
    return NodeMemory(
        node=node,
        total_bytes=fields.get("MemTotal", 0),
        free_bytes=fields.get("MemFree", 0),
        page_cache_bytes=max(0, file_pages - shared),
        shared_bytes=shared,
        anonymous_bytes=fields.get("AnonPages", 0),
        transparent_huge_bytes=fields.get("AnonHugePages", 0) + fields.get("ShmemHugePages", 0),
        huge_bytes=sum(_page_bytes(size) * (read_number(size / "nr_hugepages") or 0) for size in sizes),
        huge_free_bytes=sum(_page_bytes(size) * (read_number(size / "free_hugepages") or 0) for size in sizes),
    )


def _page_bytes(folder: Path) -> int:
    return int(folder.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
