"""How many bytes each worker of a plan holds and reads, and whether they fit the nodes' memory.

Weights are counted in the file's bytes, row by row. Every worker normalises and routes by itself, so norms and router
weights count on each; rows of token_embd and output count on the owner of the vocabulary row, once if they are tied.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from numoe.model.gguf_types import row_bytes
from numoe.model.plan import Range, Shard, ShardPlan
from numoe.model.spec import LayerTensors, ModelSpec, TensorInfo, TensorType
from numoe.model.topology import Topology, format_id_list
from numoe.protos.errors import PlanError

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class ShardBytes:
    """One worker's memory, and what it reads for one generated token."""

    weights: int
    kv_cache: int  # its key-value heads over `context_tokens` positions
    read_per_token: int  # weights only: the KV cache adds more as a sequence grows

    @property
    def held(self) -> int:
        return self.weights + self.kv_cache


def kv_position_bytes(spec: ModelSpec, kv_heads: int, kv_type: TensorType) -> int:
    """Keys and values of one position in all layers, of so many KV heads."""
    return 2 * spec.layers * kv_heads * row_bytes(kv_type, spec.head_size)


def shard_bytes(
    plan: ShardPlan,
    spec: ModelSpec,
    shard: Shard,
    context_tokens: int = 0,
    kv_type: TensorType = TensorType.F16,
) -> ShardBytes:
    """Count one worker's bytes; `context_tokens` are the KV cache's positions in all.

    Where whole experts are held, a token is taken to choose all alike, and holders of one expert to take turns.
    """
    attention = sum(_attention_bytes(spec, layer, shard) for layer in spec.layer_tensors)
    experts, active = 0.0, 0.0  # as counts of whole layers' experts
    for layer, owners in zip(spec.layer_tensors, plan.experts, strict=True):
        if owners is None:
            size = _expert_bytes(layer, shard)
            held, turns = float(spec.experts), float(spec.experts)
        else:
            size = whole_expert_bytes(layer)
            mine = owners.held_by(shard.worker)
            held, turns = len(mine), sum(1 / len(owners.workers[expert]) for expert in mine)
        experts += size * held
        active += size * turns * spec.active_experts / spec.experts
    everywhere = sum(_common_bytes(layer) for layer in spec.layer_tensors) + spec.output_norm.bytes
    output = _rows_bytes(spec.output, shard.vocabulary)
    embedding = 0 if spec.tied_output else _rows_bytes(spec.token_embedding, shard.vocabulary)
    return ShardBytes(
        weights=attention + round(experts) + everywhere + output + embedding,
        kv_cache=kv_position_bytes(spec, shard.kv_heads.size, kv_type) * context_tokens,
        read_per_token=attention + round(active) + everywhere + output,
    )


def whole_expert_bytes(layer: LayerTensors) -> int:
    """Bytes of all rows of one expert."""
    return sum(_row_bytes(tensor) * tensor.shape[-2] for tensor in (layer.gate, layer.up, layer.down))


def check_placement(
    plan: ShardPlan,
    spec: ModelSpec,
    topology: Topology,
    context_tokens: int,
    kv_type: TensorType = TensorType.F16,
) -> None:
    """Raise PlanError unless the plan's CPUs and nodes are usable here and its bytes fit the nodes' memory."""
    usable = {node.id for node in topology.nodes if node.memory_bytes}
    for shard in plan.shards:
        if shard.node not in usable:
            raise PlanError(
                f"worker {shard.worker}: node {shard.node} has no memory that we may use here, "
                f"expected one of {format_id_list(usable)}; make a new plan with `numoe plan`"
            )
        if missing := set(shard.cpus) - set(topology.cpus):
            raise PlanError(
                f"worker {shard.worker}: CPU {format_id_list(missing)} is not usable here, "
                f"expected some of {format_id_list(topology.cpus)}; make a new plan with `numoe plan`"
            )
    for node_id, needed in node_bytes(plan, spec, context_tokens, kv_type).items():
        available = topology.node(node_id).available_bytes
        if needed > available:
            raise PlanError(
                f"node {node_id}: needs {_mebibytes(needed)} for weights and KV cache, {_mebibytes(available)} are "
                "available; lower the context, spread over more nodes, or choose a smaller model"
            )


def node_bytes(
    plan: ShardPlan, spec: ModelSpec, context_tokens: int, kv_type: TensorType = TensorType.F16
) -> dict[int, int]:
    """Bytes that the plan's workers hold on each node they use, by node id."""
    totals: dict[int, int] = {}
    for shard in plan.shards:
        held = shard_bytes(plan, spec, shard, context_tokens, kv_type).held
        totals[shard.node] = totals.get(shard.node, 0) + held
    return dict(sorted(totals.items()))


def _mebibytes(count: int) -> str:
    return f"{-(-count // MEBIBYTE):,} MiB"


def _row_bytes(tensor: TensorInfo) -> int:
    """Bytes of one row: quantised blocks never cross a row."""
    return tensor.bytes // prod(tensor.shape[:-1])


def _rows_bytes(tensor: TensorInfo, rows: Range, rows_per_index: int = 1) -> int:
    return _row_bytes(tensor) * rows.size * rows_per_index


def _attention_bytes(spec: ModelSpec, layer: LayerTensors, shard: Shard) -> int:
    """Rows of Q, K, V for the worker's heads, their biases, and its rows of the output projection."""
    owned = (
        (layer.attn_q, layer.attn_q_bias, shard.heads),
        (layer.attn_k, layer.attn_k_bias, shard.kv_heads),
        (layer.attn_v, layer.attn_v_bias, shard.kv_heads),
    )
    total = _rows_bytes(layer.attn_output, shard.width_rows)
    for matrix, bias, heads in owned:
        total += _rows_bytes(matrix, heads, spec.head_size)
        if bias is not None:
            total += bias.bytes // bias.shape[0] * heads.size * spec.head_size
    return total


def _expert_bytes(layer: LayerTensors, shard: Shard) -> int:
    """The worker's rows of one expert."""
    intermediate = _rows_bytes(layer.gate, shard.expert_rows) + _rows_bytes(layer.up, shard.expert_rows)
    return intermediate + _rows_bytes(layer.down, shard.width_rows)


def _common_bytes(layer: LayerTensors) -> int:
    """What every worker holds whole."""
    tensors = (layer.attn_norm, layer.attn_q_norm, layer.attn_k_norm, layer.ffn_norm, layer.router)
    return sum(tensor.bytes for tensor in tensors if tensor is not None)
