"""The plan: which worker owns which heads, rows and experts of a model, and on which node and CPUs it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.expert_owners import ExpertOwners

PANEL_ROWS = 16  # the kernels' panel: a row range starts at a multiple of it and ends at one or at the matrix's end
BLOCK_ROWS = 32  # the same of expert_rows: who computes them rounds them, in blocks
MOST_WORKERS = 8  # the arena's layout and the invariance tests cover 1 to 8
MOST_THREADS = 512  # per worker; more is a slip of the finger


@dataclass(frozen=True, slots=True)
class Range:
    """Indices from start to stop - 1."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many indices there are."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Spread:
    """How a worker lies that has the memory of several nodes, or whose threads are pinned to no CPU."""

    memory: Literal[
        "interleave", "bind", "any"
    ]  # pages on `nodes` in turn, on any of them, wherever the kernel puts them
    nodes: tuple[int, ...]  # that hold its memory, ascending; with "any" those that may
    floating: tuple[int, ...] = ()  # CPUs among which its threads move as the kernel likes; none: they are pinned


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker's part of the model, and where it runs."""

    worker: int
    node: int  # NUMA node that holds its memory; of a worker on several, the first of them
    cpus: tuple[int, ...]  # one per thread: thread t runs on cpus[t]; a CPU stands twice if threads outnumber CPUs
    heads: Range  # query heads, of H
    kv_heads: Range  # key-value heads that those query heads read, of G
    width_rows: Range  # output rows of attn_output and, in layers split by row, of every expert's down, of D
    expert_rows: Range  # output rows of every expert's gate and up in layers split by row, of F
    vocabulary: Range  # rows of output and of token_embd, of V
    spread: Spread | None = None  # None: its memory is bound to `node`, its threads are pinned to `cpus`

    @property
    def memory_nodes(self) -> tuple[int, ...]:
        """The nodes that hold its memory, or may, ascending."""
        return (self.node,) if self.spread is None else self.spread.nodes

    @property
    def allowed_cpus(self) -> tuple[int, ...]:
        """The CPUs on which its threads may run, ascending."""
        return tuple(sorted(set(self.cpus if self.spread is None else self.spread.floating or self.cpus)))

    @property
    def pinned(self) -> bool:
        """Whether every computing thread runs on a CPU of its own."""
        return self.spread is None or not self.spread.floating


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A whole model, split over workers."""

    model: str
    shards: tuple[Shard, ...]
    experts: tuple[ExpertOwners | None, ...]  # [L] None: every worker owns a row slice of every expert
    notes: tuple[str, ...] = ()  # what an operator should know about the placement

    @property
    def split(self) -> Literal["tensor", "expert", "mixed"]:
        """How the experts are split: by row in every layer, whole in every layer, or some so and some so."""
        whole = sum(owners is not None for owners in self.experts)
        return "tensor" if not whole else "expert" if whole == len(self.experts) else "mixed"


def split_evenly(size: int, unit: int, parts: int) -> tuple[Range, ...]:
    """Split range(size) into `parts` consecutive ranges of whole units, as even as units allow."""
    units = -(-size // unit)
    cuts = [min(size, units * part // parts * unit) for part in range(parts + 1)]
    return tuple(Range(start, stop) for start, stop in pairwise(cuts))


def split_by(size: int, unit: int, weights: Sequence[float]) -> tuple[Range, ...]:
    """Split range(size) into consecutive ranges of whole units, as near to `weights`' proportion as units allow."""
    units, whole = -(-size // unit), sum(weights)
    cuts = [min(size, round(units * carried / whole) * unit) for carried in accumulate(weights, initial=0.0)]
    return tuple(Range(start, stop) for start, stop in pairwise([*cuts[:-1], size]))


def kv_heads_of(spec: ModelSpec, heads: Range) -> Range:
    """The key-value heads that these query heads read: head h reads h // (H / G)."""
    group = spec.query_heads // spec.kv_heads
    first = heads.start // group
    return Range(first, -(-heads.stop // group) if heads.size else first)
