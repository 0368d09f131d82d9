"""Machines and models that tests of planning share."""

from __future__ import annotations

from dataclasses import fields, replace
from math import prod

from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.tensors import TensorInfo, TensorType
from numoe.model.machine.topology import Node, Topology
from numoe.protos.messages import StepLimits
from tests.tiny_model import TinyShape, tiny_spec

GIBIBYTE = 1 << 30
LIMITS = StepLimits(step_tokens=16, sequences=4, context_tokens=64, kv_blocks=1, block_positions=64)
VALUE_BYTES = {TensorType.F32: (4, 1), TensorType.F16: (2, 1), TensorType.Q8_0: (34, 32)}  # bytes per so many values


def machine(*cores_of_nodes: int, siblings: int = 1) -> Topology:
    """A machine with so many cores on each node."""
    nodes, first = [], 0
    for node_id, count in enumerate(cores_of_nodes):
        starts = range(first, first + count * siblings, siblings)
        cores = tuple(tuple(range(start, start + siblings)) for start in starts)
        distances = tuple(10 if other == node_id else 21 for other in range(len(cores_of_nodes)))
        nodes.append(Node(node_id, cores, GIBIBYTE, GIBIBYTE, GIBIBYTE, distances, package=node_id))
        first += count * siblings
    return Topology(tuple(nodes))


def small_machine(nodes: int, available: int = 1 << 40) -> Topology:
    """A machine with one core and so many available bytes on each node."""
    distances = (10,) * nodes
    return Topology(
        tuple(Node(i, ((i,),), available, available, available, distances, package=i) for i in range(nodes))
    )


def sized(info: TensorInfo) -> TensorInfo:
    """The tensor with its true bytes."""
    block_bytes, block = VALUE_BYTES[info.type]
    return replace(info, bytes=prod(info.shape) // block * block_bytes)


def tensors_of(layer: LayerTensors, *names: str) -> dict[str, TensorInfo]:
    """The layer's tensors of these names, or all, by name; without those that it does not have."""
    tensors = {name: getattr(layer, name) for name in names or [field.name for field in fields(LayerTensors)]}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def sized_spec(shape: TinyShape) -> ModelSpec:
    """The shape's description with each tensor's true bytes."""
    spec = tiny_spec(shape)
    layers = [
        replace(layer, **{name: sized(tensor) for name, tensor in tensors_of(layer).items()})
        for layer in spec.layer_tensors
    ]
    return replace(
        spec,
        token_embedding=sized(spec.token_embedding),
        output_norm=sized(spec.output_norm),
        output=sized(spec.output),
        layer_tensors=tuple(layers),
    )
