"""What the machine has, as far as we may use it: NUMA nodes with their cores and memory, packages, caches, distances.

CPUs and nodes that the process may not use (CPU affinity, cgroup cpuset, a memory policy that binds it) are left out of
`cores` and the byte counts, and named in `forbidden_cpus` and `forbidden_nodes`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from numoe.model.machine.memory_policy import DEFAULT_POLICY, MemoryPolicy
from numoe.model.machine.processor import Processor

LOCAL_DISTANCE = 10  # ACPI SLIT: the distance of a node to itself; others are relative to it


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache and the CPUs that share it."""

    level: int
    kind: str  # "Data", "Instruction" or "Unified"
    bytes: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One NUMA node: CPUs and memory at the same distance from everything else."""

    id: int
    cores: tuple[tuple[int, ...], ...]  # usable CPUs grouped by physical core, SMT siblings together
    memory_bytes: int  # 0: no memory, or none that we may use
    free_bytes: int  # nobody's
    available_bytes: int  # free, or held by the page cache and given back on demand; an estimate
    distances: tuple[int, ...]  # to each node of the topology, in its order; own distance is 10
    huge_pages_free: tuple[tuple[int, int], ...] = ()  # (page bytes, pages) set aside by the administrator and free
    package: int | None = None  # the first that its CPUs belong to; None where the node has no CPUs
    other_packages: tuple[int, ...] = ()  # further ones, where the firmware interleaves memory over sockets

    @property
    def cpus(self) -> tuple[int, ...]:
        """All usable CPUs of the node, ascending."""
        return tuple(sorted(cpu for core in self.cores for cpu in core))


@dataclass(frozen=True, slots=True)
class Topology:
    """A machine, or the part of it that this process may use."""

    nodes: tuple[Node, ...]
    caches: tuple[Cache, ...] = ()
    transparent_huge_pages: str = "unknown"  # always, madvise, never
    numa_balancing: bool = False  # the kernel moves pages towards the CPUs that touch them
    processor: Processor = field(default_factory=Processor)
    memory_left: int | None = None  # bytes that the limits of this process's cgroups leave it; None: no limit
    forbidden_cpus: tuple[int, ...] = ()
    forbidden_nodes: tuple[int, ...] = ()
    policy: MemoryPolicy = DEFAULT_POLICY  # of this process: from whoever started it, such as numactl
    own_cpu: int | None = field(default=None, compare=False)  # on which this process ran; None: nothing says it

    @property
    def packages(self) -> tuple[int, ...]:
        """All packages (sockets) that nodes belong to, ascending."""
        first = {node.package for node in self.nodes if node.package is not None}
        return tuple(sorted(first.union(*(node.other_packages for node in self.nodes))))

    @property
    def cpus(self) -> tuple[int, ...]:
        """All usable CPUs, ascending."""
        return tuple(sorted(cpu for node in self.nodes for cpu in node.cpus))

    def node(self, node_id: int) -> Node:
        """The node with this id, which must exist."""
        return next(node for node in self.nodes if node.id == node_id)

    def distance(self, from_id: int, to_id: int) -> int:
        """How far one node's memory is from another's cores, 10 for a node's own."""
        order = [node.id for node in self.nodes]
        return self.node(from_id).distances[order.index(to_id)]

    def with_room(self, kept: Mapping[int, int]) -> Topology:
        """As if so many bytes of each node that are in use were available."""
        nodes = [replace(node, available_bytes=node.available_bytes + kept.get(node.id, 0)) for node in self.nodes]
        left = None if self.memory_left is None else self.memory_left + sum(kept.values())
        return replace(self, nodes=tuple(nodes), memory_left=left)

    def restricted(self, cpus: Collection[int] | None, memory: Collection[int] | None) -> Topology:
        """What is left if only these CPUs, and the memory of these nodes, may be used; None: all that may be now."""
        nodes = self.nodes
        if cpus is not None:
            own = (tuple(tuple(cpu for cpu in core if cpu in cpus) for core in node.cores) for node in nodes)
            cores = (tuple(core for core in some if core) for some in own)
            nodes = tuple(replace(node, cores=left) for node, left in zip(nodes, cores, strict=True))
        if memory is not None:
            none = {"memory_bytes": 0, "free_bytes": 0, "available_bytes": 0, "huge_pages_free": ()}
            nodes = tuple(node if node.id in memory else replace(node, **none) for node in nodes)  # type: ignore[arg-type]
        return replace(self, nodes=nodes)
