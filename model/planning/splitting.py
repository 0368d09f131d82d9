"""Splits a model's heads and rows over workers, one per NUMA node: evenly, or in proportion to what each can do.

*Guarantees*: every query head, width row, expert row and vocabulary row has exactly one owner; no worker owns more than
one unit (a head, a panel of 16 rows, or 32 expert rows) more than another, or than its proportion; the same arguments
give the same plan.

*Not guaranteed*: that every worker owns something (8 workers of a model with 4 heads), or that a key-value head has one
owner: workers whose query heads need the same one each compute and keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import mul
from typing import Literal

from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology import Topology
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.model.planning.homes import EQUAL_PARTS, Home, find_homes, spread_home
from numoe.model.planning.plan import (
    BLOCK_ROWS,
    PANEL_ROWS,
    Shard,
    ShardPlan,
    Spread,
    kv_heads_of,
    split_by,
    split_evenly,
)
from numoe.protos.errors import PlanError


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the operator decides; None leaves it to the planner."""

    workers: int | None = None  # None: one per NUMA node with CPUs and memory, at most 8
    threads_per_worker: int | None = None  # None: one per physical core
    nodes: tuple[int, ...] | None = None  # the NUMA nodes to use, in the workers' order; None: all
    split: Literal["tensor", "expert"] = "tensor"  # of the experts: rows of every one, or whole ones
    replicas: float = 0.0  # of whole experts, held a second time: a share of the layer's experts
    threads: int | None = None  # of all workers together; None: as threads_per_worker says
    spread: Spread | None = None  # one worker on the cores of all nodes, with its memory so; None: each bound to a node
    notes: tuple[str, ...] = ()  # what an operator should know about these options


def make_plan(spec: ModelSpec, topology: Topology, options: PlanOptions | None = None) -> ShardPlan:
    """Split a model over the nodes of a machine. Raises PlanError where the options cannot be followed."""
    options = options or PlanOptions()
    homes, notes = _homes(topology, options)
    shards = tuple(_shard(spec, worker, len(homes), home) for worker, home in enumerate(homes))
    return ShardPlan(spec.name, shards, _experts(spec, len(homes), options), (*options.notes, *notes))


def _homes(topology: Topology, options: PlanOptions) -> tuple[tuple[Home, ...], tuple[str, ...]]:
    if options.spread is None:
        return find_homes(topology, options.nodes, options.workers, options.threads_per_worker, options.threads)
    home, notes = spread_home(topology, options.spread, options.threads or options.threads_per_worker)
    return (home,), notes


@dataclass(frozen=True, slots=True)
class Shares:
    """How much each worker is to own, [workers] in any unit."""

    heads: tuple[float, ...]
    width_rows: tuple[float, ...]
    expert_rows: tuple[float, ...]
    vocabulary: tuple[float, ...]

    def scaled(self, factors: Sequence[float]) -> Shares:
        """The shares if each worker gets so many times what it had, before all are made to add up again."""
        return Shares(*(tuple(map(mul, getattr(self, one.name), factors)) for one in fields(self)))


def cut_anew(plan: ShardPlan, spec: ModelSpec, shares: Shares) -> ShardPlan:
    """The plan with heads and rows in these shares.

    Nothing must be equal, neither rows nor groups of heads: a key-value head whose query heads two workers own is kept
    by both, and every element is computed by its owner alone.
    """
    heads = split_by(spec.query_heads, 1, shares.heads)
    width_rows = split_by(spec.width, PANEL_ROWS, shares.width_rows)
    expert_rows = split_by(spec.expert_width, BLOCK_ROWS, shares.expert_rows)
    vocabulary = split_by(spec.vocabulary, PANEL_ROWS, shares.vocabulary)
    shards = tuple(
        replace(
            shard,
            heads=heads[shard.worker],
            kv_heads=kv_heads_of(spec, heads[shard.worker]),
            width_rows=width_rows[shard.worker],
            expert_rows=expert_rows[shard.worker],
            vocabulary=vocabulary[shard.worker],
        )
        for shard in plan.shards
    )
    return replace(plan, shards=shards, notes=tuple(note for note in plan.notes if EQUAL_PARTS not in note))


def _shard(spec: ModelSpec, worker: int, workers: int, home: Home) -> Shard:
    heads = split_evenly(spec.query_heads, 1, workers)[worker]
    return Shard(
        worker=worker,
        node=home.node,
        cpus=home.cpus,
        heads=heads,
        kv_heads=kv_heads_of(spec, heads),
        width_rows=split_evenly(spec.width, PANEL_ROWS, workers)[worker],
        expert_rows=split_evenly(spec.expert_width, BLOCK_ROWS, workers)[worker],
        vocabulary=split_evenly(spec.vocabulary, PANEL_ROWS, workers)[worker],
        spread=home.spread,
    )


def _experts(spec: ModelSpec, workers: int, options: PlanOptions) -> tuple[ExpertOwners | None, ...]:
    if options.split == "tensor":
        if options.replicas:
            raise PlanError("replicas: whole experts have them, the tensor split has none; choose the expert split")
        return (None,) * spec.layers
    if not spec.routed:
        raise PlanError(f"split: {spec.name} has no experts to hold whole; choose the tensor split")
    if not 0.0 <= options.replicas <= workers - 1:
        found = f"found {options.replicas}, expected 0 to {workers - 1} of a layer's experts"
        raise PlanError(f"replicas: {found}; choose another share")
    return (share_experts([1.0] * spec.experts, workers, round(options.replicas * spec.experts)),) * spec.layers
