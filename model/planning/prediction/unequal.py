"""Shares in proportion to what each worker can do with them, and to what its node can hold.

A worker's share of a kind of rows is in inverse proportion to the seconds that all of them would take it by the cost
model: bytes at its part of its node's bandwidth, operations on its cores, of a decode or of a prompt, whichever it does
less of. *Rejected*: decodes alone, which give a node of few cores and much bandwidth so much that prompts, which cores
bound, take 1.7 times as long as without it (20 and 2 cores, 105 and 24 GB/s). Shares of workers whose nodes they would
overfill shrink until they fit, and those of the others grow.
"""

from __future__ import annotations

from dataclasses import dataclass

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.machine.topology import Topology
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.prediction.candidates import Wishes
from numoe.model.planning.prediction.speeds import Speeds
from numoe.model.planning.prediction.worker_rates import WorkerRates, rates_of
from numoe.model.planning.splitting import Shares, cut_anew
from numoe.model.planning.worker_memory import worker_memory

LEAST_DIFFERENCE = 0.05  # between shares: plans that differ less are alike to predictions
PROMPT_TOKENS = 512  # of a step
ROUNDS, SPARED = 12, 0.02  # in which shares shrink, and the part of a node that shrinking leaves free beyond need


@dataclass(frozen=True, slots=True)
class UnequalPlan:
    """A plan whose workers own different shares, by row."""

    plan: ShardPlan
    experts: tuple[float, ...]  # [workers] shares of whole experts
    words: str  # who owns how much, for people


def unequal_shares(
    spec: ModelSpec, topology: Topology, equal: ShardPlan, wishes: Wishes, speeds: Speeds
) -> UnequalPlan | None:
    """Cut a plan of equal shares anew; None where workers and their nodes are too much alike for a difference."""
    rates = rates_of(equal.shards, topology, speeds)
    chosen = spec.active_experts / spec.experts
    shares = Shares(
        heads=_strengths(rates, _of_all(spec, "attn_q", "attn_k", "attn_v"), wishes.batch),
        width_rows=_strengths(rates, _of_all(spec, "attn_output"), wishes.batch),
        expert_rows=_strengths(rates, _of_all(spec, "gate", "up"), wishes.batch, chosen),
        vocabulary=_strengths(rates, [spec.output], wishes.batch),
    )
    shares = _fitting(spec, topology, equal, wishes, shares)
    if all(max(one) <= (1 + LEAST_DIFFERENCE) * min(one) for one in (shares.expert_rows, shares.vocabulary)):
        return None
    made = cut_anew(equal, spec, shares)
    if made.shards == equal.shards:
        return None
    held = [shard_bytes(made, spec, shard).weights for shard in made.shards]
    owned = ", ".join(f"worker {number} {size / sum(held):.0%}" for number, size in enumerate(held))
    return UnequalPlan(made, shares.expert_rows, f"workers own what they can do and hold: {owned} of the weights")


def _of_all(spec: ModelSpec, *names: str) -> list[TensorInfo]:
    """The matrices of these names of layers that differ in type."""
    layers = {tuple(matrix.type for matrix in layer.matrices): layer for layer in spec.layer_tensors}.values()
    return [getattr(layer, name) for layer in layers for name in names]


def _strengths(
    rates: list[WorkerRates], tensors: list[TensorInfo], batch: int, chosen: float = 1.0
) -> tuple[float, ...]:  # [workers]
    """What part each can do of all rows of the matrices: of a decode, or of a prompt where it can do less of that.

    `chosen` is the part of the columns that go through a matrix.
    """
    parts = []
    for tokens in (batch, PROMPT_TOKENS):
        columns = max(1, round(tokens * chosen))
        speeds = [1 / sum(own.matrix_seconds(one, one.shape[-2], columns) for one in tensors) for own in rates]
        parts.append([speed / sum(speeds) for speed in speeds])
    return tuple(map(min, *parts))


def _fitting(spec: ModelSpec, topology: Topology, equal: ShardPlan, wishes: Wishes, shares: Shares) -> Shares:
    """The shares, smaller where a node has no room; as they are if that does not help."""
    room = {node.id: node.available_bytes for node in topology.nodes}
    for _ in range(ROUNDS):
        made = cut_anew(equal, spec, shares)
        memory = worker_memory(made, spec, wishes.limits, wishes.kv_types)
        held, fixed = dict.fromkeys(room, 0), dict.fromkeys(room, 0)  # what shrinks with the share, and what does not
        for shard, one in zip(made.shards, memory, strict=True):
            held[shard.node] = held.get(shard.node, 0) + one.weights + one.kv_cache
            fixed[shard.node] = fixed.get(shard.node, 0) + one.working + one.process
        factors = {
            node: max(0.0, (1 - SPARED) * (room.get(node, 0) - fixed[node]) / size) if size else 1.0
            for node, size in held.items()
        }
        over = {node for node, size in held.items() if size + fixed[node] > room.get(node, 0)}
        if not over or len(over) == len({shard.node for shard in made.shards}):
            break
        shares = shares.scaled([factors[shard.node] if shard.node in over else 1.0 for shard in made.shards])
    return shares
