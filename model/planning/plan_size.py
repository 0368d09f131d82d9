"""Counts the bytes that each worker of a plan holds and reads.

Matrices are counted in whole panels, as workers hold them (panels.py); rows of token_embd in the file's bytes. Every
worker normalises and routes, so norms and router weights count on each; a tied output is held twice, its panels to
multiply with and its rows to look up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS, KvTypes
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.panels import rows_bytes
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.protos.locality import PAGE


@dataclass(frozen=True, slots=True)
class ShardBytes:
    """One worker's memory, and what it reads for one generated token."""

    weights: int
    kv_cache: int  # its key-value heads over `kv_positions` positions
    read_per_token: int  # matrices only: the KV cache adds more as a sequence grows

    @property
    def held(self) -> int:
        """Bytes of memory in all."""
        return self.weights + self.kv_cache


def kv_position_bytes(spec: ModelSpec, kv_heads: int, kv_types: KvTypes) -> int:
    """Bytes of the keys and values of one position in all layers, of so many KV heads."""
    return spec.layers * kv_heads * kv_types.bytes(spec.head_size)


def shard_bytes(
    plan: ShardPlan,
    spec: ModelSpec,
    shard: Shard,
    kv_positions: int = 0,
    kv_types: KvTypes = HALF_FLOATS,
) -> ShardBytes:
    """Count one worker's bytes; `kv_positions` are the KV cache's positions in all.

    Bytes read of whole experts suppose that tokens choose all experts alike, and that holders of one take turns.
    """
    held, vectors = 0, spec.output_norm.bytes
    output = rows_bytes(spec.output, shard.vocabulary.size) if spec.draws else 0
    read = float(output)
    for layer, owners in zip(spec.layer_tensors, plan.experts, strict=True):
        dense, size = dense_bytes(spec, layer, shard), expert_bytes(layer, shard, whole=owners is not None)
        held = _add_experts(held + dense, size, spec.experts, owners, shard.worker)
        read += dense + size * _active_experts(spec, owners, shard.worker)
        vectors += _vector_bytes(spec, layer, shard)
    embedding = spec.token_embedding.bytes // spec.vocabulary * shard.vocabulary.size if spec.embeds else 0
    return ShardBytes(
        weights=held + output + embedding + vectors,
        kv_cache=kv_position_bytes(spec, shard.kv_heads.size, kv_types) * kv_positions,
        read_per_token=round(read),
    )


def dense_bytes(spec: ModelSpec, layer: LayerTensors, shard: Shard) -> int:
    """Bytes of the worker's rows of all matrices of a layer but those of experts."""
    size, heads, kv_heads = spec.head_size, shard.heads.size, shard.kv_heads.size
    matrices = (
        (layer.attn_q, heads * size),
        (layer.attn_k, kv_heads * size),
        (layer.attn_v, kv_heads * size),
        (layer.attn_output, shard.width_rows.size),
        *([(layer.router, spec.experts)] if layer.router else []),
    )
    return sum(rows_bytes(matrix, rows) for matrix, rows in matrices)


def expert_bytes(layer: LayerTensors, shard: Shard, *, whole: bool) -> int:
    """Bytes of the worker's rows of one expert, or of all its rows if it is held `whole`."""
    if whole:
        return whole_expert_bytes(layer)
    inner, outer = shard.expert_rows.size, shard.width_rows.size
    return rows_bytes(layer.gate, inner) + rows_bytes(layer.up, inner) + rows_bytes(layer.down, outer)


def whole_expert_bytes(layer: LayerTensors) -> int:
    """Bytes of all rows of one expert."""
    return sum(rows_bytes(tensor, tensor.shape[-2]) for tensor in (layer.gate, layer.up, layer.down))


def _add_experts(used: int, size: int, experts: int, owners: ExpertOwners | None, worker: int) -> int:
    """The bytes used after a layer's experts are added to `used`; every whole expert begins a page."""
    if owners is None:
        return used + experts * size
    for _ in owners.held_by(worker):
        used = -(-used // PAGE) * PAGE + size
    return used


def _active_experts(spec: ModelSpec, owners: ExpertOwners | None, worker: int) -> float:
    """How many experts of a layer a worker computes for one token, on average."""
    if owners is None:
        return float(spec.active_experts)
    turns = sum(1 / len(owners.workers[expert]) for expert in owners.held_by(worker))
    return turns * spec.active_experts / spec.experts


def _vector_bytes(spec: ModelSpec, layer: LayerTensors, shard: Shard) -> int:
    """Norms, which every worker holds, and the biases of its heads."""
    norms = (layer.attn_norm, layer.attn_q_norm, layer.attn_k_norm, layer.ffn_norm)
    total = sum(norm.bytes for norm in norms if norm is not None)
    biases = (
        (layer.attn_q_bias, shard.heads),
        (layer.attn_k_bias, shard.kv_heads),
        (layer.attn_v_bias, shard.kv_heads),
    )
    for bias, heads in biases:
        if bias is not None:
            total += bias.bytes // prod(bias.shape) * heads.size * spec.head_size
    return total
