"""How fast each node's cores were measured to read each node's memory, and to wait; kept in a file, for plans to use.

processor = "AMD EPYC 9355 32-Core Processor"
measured_at = "2026-11-23 15:50"
cores = [[0, 16], [1, 16]]             # node, cores that read

[[read]]
cores_of = 0
memory_of = 1
bytes_per_second = 51200000000

[[pass]]                               # see waits.py
apart = "package"
seconds = 1.1e-07

[[wait]]
threads = 16
barrier = 1.2e-06
claims = 4e-07
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from numoe.model.machine.topology import Topology
from numoe.model.machine.waits import Waits, waits_in
from numoe.protos.folders import cache_folder


@dataclass(frozen=True, slots=True)
class Read:
    """How fast all cores of one node read the memory of one node, while nothing else read."""

    cores_of: int
    memory_of: int
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The reads that could be measured, and the machine that they were measured on."""

    processor: str
    measured_at: str
    cores: tuple[tuple[int, int], ...]  # (node, cores), of the nodes that have any
    reads: tuple[Read, ...]
    waits: Waits | None = None  # None: not measured

    @property
    def local(self) -> dict[int, float]:
        """Bytes per second of each node's cores from its own memory."""
        return {read.cores_of: read.bytes_per_second for read in self.reads if read.cores_of == read.memory_of}

    def rate(self, cores_of: int, memory_of: int) -> float | None:
        """Bytes per second; None where it was not measured."""
        found = {(read.cores_of, read.memory_of): read.bytes_per_second for read in self.reads}
        return found.get((cores_of, memory_of))

    def belongs_to(self, topology: Topology) -> bool:
        """Whether this was measured on such a machine, by as many cores of each node."""
        return self.processor == topology.processor.name and self.cores == cores_of_nodes(topology)


def cores_of_nodes(topology: Topology) -> tuple[tuple[int, int], ...]:
    """(node, cores) of all nodes that have any."""
    return tuple((node.id, len(node.cores)) for node in topology.nodes if node.cores)


def bandwidth_file() -> Path:
    """Where the last measurement is kept."""
    return cache_folder() / "bandwidth.toml"


def save_bandwidth(bandwidth: Bandwidth, path: Path) -> None:
    """Write the file that load_bandwidth reads. Raises OSError."""
    lines = [f"processor = {json.dumps(bandwidth.processor)}", f"measured_at = {json.dumps(bandwidth.measured_at)}"]
    lines.append(f"cores = {[list(pair) for pair in bandwidth.cores]}")
    for read in bandwidth.reads:
        lines += ["", "[[read]]", f"cores_of = {read.cores_of}", f"memory_of = {read.memory_of}"]
        lines.append(f"bytes_per_second = {read.bytes_per_second:.0f}")
    lines += [] if bandwidth.waits is None else bandwidth.waits.lines()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def load_bandwidth(path: Path, topology: Topology) -> Bandwidth | None:
    """Read what was measured on this machine; None if nothing was, or on another machine, or if the file is damaged."""
    try:
        document = tomllib.loads(path.read_text())
        reads = tuple(
            Read(int(read["cores_of"]), int(read["memory_of"]), float(read["bytes_per_second"]))
            for read in document["read"]
        )
        cores = tuple((int(node), int(count)) for node, count in document["cores"])
        found = Bandwidth(str(document["processor"]), str(document["measured_at"]), cores, reads, waits_in(document))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError):
        return None
    return found if found.belongs_to(topology) else None
