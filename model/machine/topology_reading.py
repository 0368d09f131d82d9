"""Reads a machine's topology from /sys and /proc.

They are looked for below a root folder, so that a copy of another machine's tree can stand in for this one. What the
process may use is what the two `_allowed_list` lines of /proc/self/status say, and of this machine's nodes those that
the process's memory policy binds it to, if one does (numactl --membind).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from numoe.model.machine.cgroups import memory_limit
from numoe.model.machine.id_lists import parse_id_list
from numoe.model.machine.linux_files import chosen, labelled_lines, meminfo_bytes, read_text
from numoe.model.machine.memory_policy import DEFAULT_POLICY, MemoryPolicy, current_policy
from numoe.model.machine.processor import read_processor
from numoe.model.machine.threads import current_cpu
from numoe.model.machine.topology import LOCAL_DISTANCE, Cache, Node, Topology
from numoe.protos.errors import SetupError


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What the process may use; None: everything."""

    cpus: frozenset[int] | None
    nodes: frozenset[int] | None

    def cpu(self, cpu: int) -> bool:
        return self.cpus is None or cpu in self.cpus

    def node(self, node: int) -> bool:
        return self.nodes is None or node in self.nodes


def read_topology(root: Path = Path("/"), policy: MemoryPolicy | None = None) -> Topology:
    """Read the machine below `root`; a kernel without NUMA in /sys is one node with all CPUs and all memory.

    `policy`: by which whoever is to use it gets its memory; None: this process's, of a copy the default.

    Raises:
        SetupError: a file does not hold what Linux writes there.
    """
    try:
        if policy is None and root == Path("/"):
            policy = current_policy()
        return _read_topology(root, policy or DEFAULT_POLICY)
    except ValueError as error:
        raise SetupError(f"{root}: what /sys and /proc say of the machine cannot be read: {error}") from error


def _read_topology(root: Path, policy: MemoryPolicy) -> Topology:
    allowed = _read_allowed(root, policy)
    folder = root / "sys/devices/system/node"
    online = parse_id_list(read_text(folder / "online"))
    ids = [node for node in online if (folder / f"node{node}").is_dir()]
    nodes = tuple(_read_node(root, node, ids, allowed) for node in ids) or (_read_flat_node(root, allowed),)
    listed = {cpu for node in ids for cpu in parse_id_list(read_text(folder / f"node{node}/cpulist"))}
    listed = listed or set(_online_cpus(root))
    return Topology(
        nodes=nodes,
        caches=read_caches(sorted(cpu for node in nodes for cpu in node.cpus), root),
        transparent_huge_pages=chosen(read_text(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        numa_balancing=read_text(root / "proc/sys/kernel/numa_balancing") not in ("", "0"),
        processor=read_processor(root),
        memory_left=_memory_left(root, sum(node.memory_bytes for node in nodes)),
        forbidden_cpus=tuple(sorted(cpu for cpu in listed if not allowed.cpu(cpu))),
        forbidden_nodes=tuple(node for node in ids if not allowed.node(node)),
        policy=policy,
        own_cpu=current_cpu(root),
    )


def _memory_left(root: Path, memory_bytes: int) -> int | None:
    """What cgroups leave of the machine's memory; None: their limits are beyond it, or there are none."""
    found = memory_limit(root)
    if found is None or found[0] >= memory_bytes:
        return None
    limit, used = found
    return max(0, limit - used)


def _read_allowed(root: Path, policy: MemoryPolicy) -> _Allowed:
    lines = labelled_lines(read_text(root / "proc/self/status"))
    cpus, nodes = lines.get("Cpus_allowed_list"), lines.get("Mems_allowed_list")
    allowed = None if nodes is None else frozenset(parse_id_list(nodes))
    if policy.kind == "bind":
        allowed = frozenset(policy.nodes) if allowed is None else allowed & frozenset(policy.nodes)
    return _Allowed(None if cpus is None else frozenset(parse_id_list(cpus)), allowed)


def _read_node(root: Path, node_id: int, ids: list[int], allowed: _Allowed) -> Node:
    folder = root / f"sys/devices/system/node/node{node_id}"
    cpus = parse_id_list(read_text(folder / "cpulist"))
    memory = meminfo_bytes(read_text(folder / "meminfo")) if allowed.node(node_id) else {}
    packages = _packages(root, cpus)
    distances = tuple(int(word) for word in read_text(folder / "distance").split())
    return Node(
        id=node_id,
        cores=_group_cores(root, [cpu for cpu in cpus if allowed.cpu(cpu)]),
        memory_bytes=memory.get("MemTotal", 0),
        free_bytes=memory.get("MemFree", 0),
        available_bytes=_available(memory),
        distances=distances if len(distances) == len(ids) else _default_distances(node_id, ids),
        huge_pages_free=_read_huge_pages(folder / "hugepages") if allowed.node(node_id) else (),
        package=packages[0] if packages else None,
        other_packages=packages[1:],
    )


def _read_flat_node(root: Path, allowed: _Allowed) -> Node:
    cpus = _online_cpus(root)
    memory, packages = meminfo_bytes(read_text(root / "proc/meminfo")), _packages(root, cpus)
    return Node(
        id=0,
        cores=_group_cores(root, [cpu for cpu in cpus if allowed.cpu(cpu)]),
        memory_bytes=memory.get("MemTotal", 0),
        free_bytes=memory.get("MemFree", 0),
        available_bytes=memory.get("MemAvailable", _available(memory)),
        distances=(LOCAL_DISTANCE,),
        huge_pages_free=_read_huge_pages(root / "sys/kernel/mm/hugepages"),
        package=packages[0] if packages else None,
        other_packages=packages[1:],
    )


def _online_cpus(root: Path) -> tuple[int, ...]:
    """CPUs of a machine without node folders; without any /sys (some sandboxes) the affinity mask is all there is."""
    online = parse_id_list(read_text(root / "sys/devices/system/cpu/online"))
    return online or (tuple(sorted(os.sched_getaffinity(0))) if root == Path("/") else ())


def _default_distances(node_id: int, ids: list[int]) -> tuple[int, ...]:
    """What Linux assumes where the firmware has no table: 10 to itself, 20 to every other node."""
    return tuple(LOCAL_DISTANCE if other == node_id else 2 * LOCAL_DISTANCE for other in ids)


def _group_cores(root: Path, cpus: list[int]) -> tuple[tuple[int, ...], ...]:
    """Group CPUs by physical core, cores in the order of their first CPU."""
    cores: dict[tuple[int, ...], list[int]] = {}
    for cpu in cpus:
        siblings = parse_id_list(read_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        cores.setdefault(siblings or (cpu,), []).append(cpu)
    return tuple(sorted(tuple(sorted(core)) for core in cores.values()))


def _packages(root: Path, cpus: tuple[int, ...]) -> tuple[int, ...]:
    """The packages of these CPUs: one, unless the firmware hides the sockets' memory behind a single node."""
    names = [read_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id") for cpu in cpus]
    return tuple(sorted({int(name) for name in names if name.isdecimal()}))  # "-1" on boards that do not say


def _available(memory: dict[str, int]) -> int:
    """Free bytes and what the kernel gives back on demand: the page cache without shared memory, and slab caches."""
    page_cache = max(0, memory.get("FilePages", 0) - memory.get("Shmem", 0))
    return memory.get("MemFree", 0) + page_cache + memory.get("SReclaimable", 0)


def _read_huge_pages(folder: Path) -> tuple[tuple[int, int], ...]:
    pages = []
    for size in sorted(folder.glob("hugepages-*kB")):
        count = int(read_text(size / "free_hugepages") or 0)
        pages.append((int(size.name.removeprefix("hugepages-").removesuffix("kB")) * 1024, count))
    return tuple(sorted(pages))


def read_caches(cpus: Iterable[int], root: Path = Path("/")) -> tuple[Cache, ...]:
    """All caches of some CPUs."""
    found: set[tuple[int, str, int, tuple[int, ...]]] = set()
    for cpu in cpus:
        for index in (root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            shared = parse_id_list(read_text(index / "shared_cpu_list"))
            size = read_text(index / "size").removesuffix("K")
            if size and shared:
                found.add((int(read_text(index / "level") or 0), read_text(index / "type"), int(size) * 1024, shared))
    return tuple(Cache(*cache) for cache in sorted(found))
