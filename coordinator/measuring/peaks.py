"""What workers could do at most, and how many bytes and operations a token takes: fill and share of the peak."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.prediction.speeds import GUESSED, Speeds


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most that memory and cores of a plan's workers give together."""

    bandwidth: float  # bytes per second
    operations: float  # integer products and sums per second
    source: str  # where both are from, for people


def peaks_of(plan: ShardPlan, speeds: Speeds) -> Peaks:
    """The bandwidth of the nodes that hold a plan's shards, and the integer peak of the cores that compute."""
    nodes = sorted({node for shard in plan.shards for node in shard.memory_nodes})
    cores = {cpu for shard in plan.shards for cpu in shard.cpus}
    bandwidth = sum(speeds.read_rate(node, node) for node in nodes)
    operations = len(cores) * speeds.integer_peak
    memory = f"{bandwidth / 1e9:.1f} GB/s of node {', '.join(map(str, nodes))}, {speeds.source}"
    if speeds.source == GUESSED:
        memory += " (`numoe doctor` measures it)"
    peak = f"{operations / 1e9:.0f} GOP/s of {len(cores)} cores, calculated from the processor's kind"
    return Peaks(bandwidth, operations, f"fill: of {memory}; share of peak: of {peak}")


def operations_per_token(spec: ModelSpec, *, with_output: bool) -> float:
    """Products and additions with the weights that a token meets, counted as two; attention's own are left out."""
    experts_share = spec.active_experts / spec.experts
    values = 0.0
    for layer in spec.layer_tensors:
        for matrix in layer.matrices:
            share = experts_share if matrix in (layer.gate, layer.up, layer.down) else 1.0
            values += share * prod(matrix.shape)
    return 2 * (values + (spec.vocabulary * spec.width if with_output else 0))


def model_tensors(spec: ModelSpec) -> list[TensorInfo]:
    """Every tensor of the file once."""
    layers = [getattr(layer, one.name) for layer in spec.layer_tensors for one in fields(layer)]
    found = [spec.token_embedding, spec.output_norm, spec.output, *layers]
    return list({tensor.name: tensor for tensor in found if tensor is not None}.values())
