"""Looks at this machine for operators: its nodes' memory, its workers' threads, its settings; by reading files.

Guarantees: what costs more than a few files is looked at once (nodes, cores, peaks) or once a minute (settings).
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from numoe.coordinator.machine.planning import find_speeds
from numoe.coordinator.settings import WorkerSettings
from numoe.model.doctor.diagnosis import diagnose
from numoe.model.doctor.finding import Finding
from numoe.model.machine.bandwidth import bandwidth_file, load_bandwidth
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.memory_policy import PolicyTrial, try_policies
from numoe.model.machine.memory_use import NodeMemory, read_node_memory
from numoe.model.machine.threads import thread_cpus
from numoe.model.machine.topology import Node, Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import Shard
from numoe.model.planning.prediction.speeds import Speeds
from numoe.model.planning.worker_memory import spread_bytes
from numoe.protos.locality import Locality, NodeBytes, total

LOOK_SECONDS = 5.0  # between two looks
FINDINGS_SECONDS = 60.0
NO_PEAK = 0.0


class PlacedWorker(Protocol):
    """A worker of this machine, as WorkerPlacement (workers/placement.py) tells of it."""

    @property
    def shard(self) -> Shard: ...

    @property
    def pid(self) -> int | None: ...

    @property
    def weight_bytes(self) -> int | None: ...

    @property
    def kv_bytes(self) -> int | None: ...

    @property
    def locality(self) -> Locality | None: ...


@dataclass(frozen=True, slots=True)
class NodeUse:
    """A NUMA node, a room of the host."""

    node: int
    package: int | None  # the socket
    cpus: str  # that may be used, "0-19,40-59"
    total_bytes: int
    free_bytes: int
    page_cache_bytes: int
    weight_bytes: int  # of this service's workers, as the kernel said when they loaded and moved
    kv_bytes: int
    arena_bytes: int  # shared by the workers
    other_bytes: int  # all else: other programs, the kernel, this service's own
    transparent_huge_bytes: int  # of all programs' memory, on huge pages
    huge_bytes: int  # set aside by the administrator as huge pages
    huge_free_bytes: int
    peak: float  # bytes per second that its cores read from its memory at most


@dataclass(frozen=True, slots=True)
class Host:
    """A machine."""

    name: str
    processor: str
    transparent_huge_pages: str  # always, madvise, never
    peak_source: str  # where the peaks are from: "measured at ...", "as told", "guessed ..."
    nodes: tuple[NodeUse, ...]
    told_at: float  # Unix time of this look
    address: str = ""  # by which other hosts reach it; "": the service runs on one


@dataclass(frozen=True, slots=True)
class Threads:
    """The threads of a process."""

    all: int
    off: int  # may run on other CPUs than those of its shard


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One look."""

    host: Host
    threads: Mapping[int, Threads]  # by worker; none for those that have no process
    findings: tuple[Finding, ...]

    def peak(self, node: int) -> float:
        """Bytes per second that a node's cores read from its memory at most; 0: there is no such node."""
        return next((one.peak for one in self.host.nodes if one.node == node), NO_PEAK)


class MachineLook:
    """Looks below `root`; used by one thread at a time."""

    def __init__(
        self, settings: WorkerSettings, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._root, self._clock = settings, root, clock
        self._known: tuple[Topology, Speeds] | None = None
        self._trial: PolicyTrial | None = None
        self._findings: tuple[Finding, ...] = ()
        self._found_at = -math.inf

    def look(self, workers: Sequence[PlacedWorker]) -> MachineFacts:
        """Look now; `workers` are this machine's. Raises SetupError where /sys or /proc cannot be read."""
        if self._known is None:
            topology = read_topology(self._root)
            self._known = topology, find_speeds(topology, self._settings)
            with_memory = [node.id for node in topology.nodes if node.memory_bytes]
            if self._root == Path("/") and with_memory:
                self._trial = try_policies(with_memory[-1])
        topology, speeds = self._known
        if self._clock() - self._found_at >= FINDINGS_SECONDS:
            self._found_at = self._clock()
            now = read_topology(self._root)
            self._findings = diagnose(self._root, now, None, load_bandwidth(bandwidth_file(), now), self._trial)
        memory = {one.node: one for one in read_node_memory([node.id for node in topology.nodes], self._root)}
        held = _held_bytes(workers)
        nodes = tuple(_node_use(node, memory[node.id], held, speeds) for node in topology.nodes)
        host = Host(
            name=socket.gethostname(),
            processor=topology.processor.name,
            transparent_huge_pages=topology.transparent_huge_pages,
            peak_source=speeds.source,
            nodes=nodes,
            told_at=round(time.time(), 1),
        )
        return MachineFacts(host, dict(_threads(workers)), self._findings)


def _threads(workers: Sequence[PlacedWorker]) -> list[tuple[int, Threads]]:
    found = []
    for worker in workers:
        masks = [] if worker.pid is None else thread_cpus(worker.pid)
        if masks:
            own = set(worker.shard.allowed_cpus)
            found.append((worker.shard.worker, Threads(len(masks), sum(not mask <= own for mask in masks))))
    return found


def _held_bytes(workers: Sequence[PlacedWorker]) -> tuple[NodeBytes, NodeBytes, NodeBytes]:
    """Weights, keys and values, and arena of all workers by node; as planned, where the kernel does not tell."""
    weights, kv, arena = [], [], []
    for worker in workers:
        if worker.locality is not None and worker.locality.verified:
            weights.append(worker.locality.weights)
            kv.append(worker.locality.kv)
            arena.append(worker.locality.arena)
        else:
            nodes = worker.shard.memory_nodes
            weights.append(spread_bytes(worker.weight_bytes or 0, nodes))
            kv.append(spread_bytes(worker.kv_bytes or 0, nodes))
    return total(tuple(weights)), total(tuple(kv)), total(tuple(arena))


def _node_use(node: Node, memory: NodeMemory, held: tuple[NodeBytes, NodeBytes, NodeBytes], speeds: Speeds) -> NodeUse:
    weights, kv, arena = (part.get(node.id, 0) for part in held)
    known = memory.free_bytes + memory.page_cache_bytes + weights + kv + arena
    return NodeUse(
        node=node.id,
        package=node.package,
        cpus=format_id_list(node.cpus),
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        page_cache_bytes=memory.page_cache_bytes,
        weight_bytes=weights,
        kv_bytes=kv,
        arena_bytes=arena,
        other_bytes=max(0, memory.total_bytes - known),
        transparent_huge_bytes=memory.transparent_huge_bytes,
        huge_bytes=memory.huge_bytes,
        huge_free_bytes=memory.huge_free_bytes,
        peak=speeds.node_bandwidth.get(node.id, NO_PEAK),
    )
