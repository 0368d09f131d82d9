"""How fast each worker of a plan reads and computes, with its cores and its part of its node's bandwidth.

A worker whose pages are spread over nodes is taken to have equal parts on each, and every core to read all of them
alike: of two nodes half of the bytes come from the other one. What a node gives to cores of another was measured by
`numoe doctor`, or is its own bandwidth less in proportion to the distance that the firmware tells. Where the kernel
puts pages as it likes nobody knows how they lie, and the same is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numoe.model.gguf.tensors import TensorInfo
from numoe.model.machine.topology import LOCAL_DISTANCE, Topology
from numoe.model.planning.panels import rows_bytes
from numoe.model.planning.plan import Shard
from numoe.model.planning.prediction.speeds import Speeds

# Of the shorter of reading and computing: a core computes while it waits for memory, but not all the time. Fitted to
# decodes of Q4_K_M and Q2_K by two cores at 49 and 78 GB/s, where 0.5 predicts an eighth too little.
NOT_OVERLAPPED = 0.2


@dataclass(frozen=True, slots=True)
class WorkerRates:
    """What one worker has of the machine."""

    cores: int
    bandwidth: float  # bytes per second that its cores read together
    speeds: Speeds  # of the machine

    def matrix_seconds(self, tensor: TensorInfo, rows: int, columns: int) -> float:
        """Seconds to multiply some rows with columns of activations: unpacked for the first, ready for the others."""
        reading = rows_bytes(tensor, rows) / self.bandwidth
        first = rows_bytes(tensor, rows) / (self.cores * self.speeds.stream_rate(tensor.type))
        another = 2 * rows * tensor.shape[-1] / (self.cores * self.speeds.tile_rate(tensor.type))
        computing = first + (columns - 1) * another
        apart = self.speeds.not_overlapped.get(tensor.type, NOT_OVERLAPPED)
        return max(reading, computing) + apart * min(reading, computing)


def rates_of(shards: Sequence[Shard], topology: Topology, speeds: Speeds) -> list[WorkerRates]:
    """[W] the rates of each worker; workers of one node share its bandwidth out by their cores."""
    cores = [
        max(1, sum(1 for node in topology.nodes for core in node.cores if set(core) & set(shard.cpus)))
        for shard in shards
    ]
    found = []
    for shard, own in zip(shards, cores, strict=True):
        sharing = sum(count for other, count in zip(shards, cores, strict=True) if other.node == shard.node)
        if shard.spread is not None:
            found.append(
                WorkerRates(own, min(_spread_rate(shard, topology, speeds), own * speeds.core_bandwidth), speeds)
            )
            continue
        homes = {node.id for node in topology.nodes if set(node.cpus) & set(shard.cpus)} or {shard.node}
        part = min(speeds.read_rate(home, shard.node) for home in homes) * own / sharing
        found.append(WorkerRates(own, min(part, own * speeds.core_bandwidth), speeds))
    return found


def _spread_rate(shard: Shard, topology: Topology, speeds: Speeds) -> float:
    """Bytes per second that a worker's cores read of pages in equal parts on several nodes: the slowest sets the pace.

    A node's rate is the mean over those who read it, by their share of the cores, of the time that a byte takes.
    """
    cores = {node.id: sum(1 for core in node.cores if set(core) & set(shard.cpus)) for node in topology.nodes}
    readers = {node: count for node, count in cores.items() if count} or {shard.node: 1}
    slowest = min(
        sum(readers.values()) / sum(count / _rate(topology, speeds, node, memory) for node, count in readers.items())
        for memory in shard.memory_nodes
    )
    return slowest * len(shard.memory_nodes)


def _rate(topology: Topology, speeds: Speeds, cores_of: int, memory_of: int) -> float:
    rate = speeds.read_rate(cores_of, memory_of)
    if cores_of == memory_of or (cores_of, memory_of) in speeds.far_bandwidth:
        return rate
    return rate * min(1.0, LOCAL_DISTANCE / topology.distance(cores_of, memory_of))
