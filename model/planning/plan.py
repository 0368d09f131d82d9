"""Who owns what: plan(spec, topology, options) splits a model's heads and rows over workers, one per NUMA node.

Guarantees: every query head, width row, expert row and vocabulary row has exactly one owner; no worker owns more
than one unit (a head, a panel of 16 rows, or 32 expert rows) more than another; the same arguments give the same plan.
Not guaranteed: that every worker owns something (8 workers of a model with 4 heads), or that a key-value head has
one owner: workers whose query heads need the same one each compute and keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.protos.errors import PlanError

PANEL_ROWS = 16  # the kernels' panel: a row range starts at a multiple of it and ends at one or at the matrix's end
BLOCK_ROWS = 32  # the same of expert_rows: who computes them rounds them, in blocks
MOST_WORKERS = 8  # the arena's layout and the invariance tests cover 1 to 8
MOST_THREADS = 512  # per worker; more is a slip of the finger


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open: start <= index < stop."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker's part of the model, and where it runs."""

    worker: int
    node: int  # NUMA node that holds its memory
    cpus: tuple[int, ...]  # one per thread: thread t runs on cpus[t]; a CPU stands twice if threads outnumber CPUs
    heads: Range  # query heads, of H
    kv_heads: Range  # key-value heads that those query heads read, of G
    width_rows: Range  # output rows of attn_output and, in layers split by row, of every expert's down, of D
    expert_rows: Range  # output rows of every expert's gate and up in layers split by row, of F
    vocabulary: Range  # rows of output and of token_embd, of V


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The whole model, split; `notes` say what an operator should know about the placement."""

    model: str
    shards: tuple[Shard, ...]
    experts: tuple[ExpertOwners | None, ...]  # [L] None: every worker owns a row slice of every expert
    notes: tuple[str, ...] = ()

    @property
    def split(self) -> Literal["tensor", "expert", "mixed"]:
        """How the experts are split: by row in every layer, whole in every layer, or some so and some so."""
        whole = sum(owners is not None for owners in self.experts)
        return "tensor" if not whole else "expert" if whole == len(self.experts) else "mixed"


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the operator decides; None leaves it to the planner."""

    workers: int | None = None  # None: one per NUMA node with CPUs and memory, at most 8
    threads_per_worker: int | None = None  # None: one per physical core
    nodes: tuple[int, ...] | None = None  # the NUMA nodes to use, in the workers' order; None: all
    split: Literal["tensor", "expert"] = "tensor"  # of the experts: rows of every one, or whole ones
    replicas: float = 0.0  # of whole experts, held a second time: a share of the layer's experts


@dataclass(frozen=True, slots=True)
class _Home:
    """A place for workers: the node that holds their memory and the cores they run on."""

    node: int
    cores: tuple[tuple[int, ...], ...]


def make_plan(spec: ModelSpec, topology: Topology, options: PlanOptions | None = None) -> ShardPlan:
    """Split `spec` over the nodes of `topology`; raises PlanError where the options cannot be followed."""
    options = options or PlanOptions()
    homes, notes = _find_homes(topology, options)
    workers = min(len(homes), MOST_WORKERS) if options.workers is None else options.workers
    _check_counts(workers, options.threads_per_worker)
    places = _settle(homes, workers)
    notes += _placement_notes(homes, places)
    cpus = [_thread_cpus(place.cores, options.threads_per_worker) for place in places]
    notes += _thread_notes(cpus)
    shards = tuple(_shard(spec, worker, workers, places[worker].node, cpus[worker]) for worker in range(workers))
    return ShardPlan(spec.name, shards, _experts(spec, workers, options), notes)


def split_evenly(size: int, unit: int, parts: int) -> tuple[Range, ...]:
    """Split range(size) into `parts` consecutive ranges of whole units, as even as units allow."""
    units = -(-size // unit)
    cuts = [min(size, units * part // parts * unit) for part in range(parts + 1)]
    return tuple(Range(start, stop) for start, stop in pairwise(cuts))


def kv_heads_of(spec: ModelSpec, heads: Range) -> Range:
    """The key-value heads that these query heads read: head h reads h // (H / G)."""
    group = spec.query_heads // spec.kv_heads
    first = heads.start // group
    return Range(first, -(-heads.stop // group) if heads.size else first)


def _shard(spec: ModelSpec, worker: int, workers: int, node: int, cpus: tuple[int, ...]) -> Shard:
    heads = split_evenly(spec.query_heads, 1, workers)[worker]
    return Shard(
        worker=worker,
        node=node,
        cpus=cpus,
        heads=heads,
        kv_heads=kv_heads_of(spec, heads),
        width_rows=split_evenly(spec.width, PANEL_ROWS, workers)[worker],
        expert_rows=split_evenly(spec.expert_width, BLOCK_ROWS, workers)[worker],
        vocabulary=split_evenly(spec.vocabulary, PANEL_ROWS, workers)[worker],
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


def _check_counts(workers: int, threads: int | None) -> None:
    if not 1 <= workers <= MOST_WORKERS:
        raise PlanError(f"workers: found {workers}, expected 1 to {MOST_WORKERS}; choose another number of workers")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise PlanError(f"threads per worker: found {threads}, expected 1 to {MOST_THREADS}; choose another number")


def _find_homes(topology: Topology, options: PlanOptions) -> tuple[tuple[_Home, ...], tuple[str, ...]]:
    """The nodes with both CPUs and memory; failing that, those with CPUs and the nearest memory."""
    nodes = _chosen_nodes(topology, options.nodes)
    homes = tuple(_Home(node.id, node.cores) for node in nodes if node.cores and node.memory_bytes)
    if not homes:
        homes = tuple(_Home(_nearest_memory(topology, node), node.cores) for node in nodes if node.cores)
        if not homes:
            raise PlanError("nodes: found none with a usable CPU, expected one or more; widen the affinity or cpuset")
        return homes, ("no usable node has both CPUs and memory: workers use the memory of the nearest node",)
    notes = [f"node {node.id} has CPUs but no usable memory: left out" for node in nodes if not node.memory_bytes]
    notes += [f"node {node.id} has memory but no usable CPUs: left out" for node in nodes if not node.cores]
    return homes, tuple(notes)


def _chosen_nodes(topology: Topology, ids: tuple[int, ...] | None) -> list[Node]:
    if ids is None:
        return list(topology.nodes)
    known = [node.id for node in topology.nodes]
    for node_id in ids:
        if node_id not in known or ids.count(node_id) > 1:
            raise PlanError(
                f"nodes: found {list(ids)}, expected different ones of {known}; `numoe topology` shows them"
            )
    return [topology.node(node_id) for node_id in ids]


def _nearest_memory(topology: Topology, node: Node) -> int:
    memory = [other.id for other in topology.nodes if other.memory_bytes]
    return min(memory, key=lambda other: (topology.distance(node.id, other), other), default=node.id)


def _settle(homes: Sequence[_Home], workers: int) -> list[_Home]:
    """A home for each worker: the first homes where there are enough, else homes' cores are shared out."""
    if workers <= len(homes):
        return list(homes[:workers])
    owner = [worker * len(homes) // workers for worker in range(workers)]
    places = []
    for worker, index in enumerate(owner):
        home, sharers, rank = homes[index], owner.count(index), worker - owner.index(index)
        cores = home.cores
        if sharers <= len(cores):
            part = split_evenly(len(cores), 1, sharers)[rank]
            places.append(_Home(home.node, cores[part.start : part.stop]))
        else:  # not even a core each: neighbours share one
            places.append(_Home(home.node, (cores[rank * len(cores) // sharers],)))
    return places


def _thread_cpus(cores: Sequence[tuple[int, ...]], threads: int | None) -> tuple[int, ...]:
    """One CPU per thread: first one of each core, then the SMT siblings, then round again."""
    most_siblings = max(len(core) for core in cores)
    order = [core[turn] for turn in range(most_siblings) for core in cores if turn < len(core)]
    if threads is None:
        return tuple(order[: len(cores)])
    return tuple(order[thread % len(order)] for thread in range(threads))


def _placement_notes(homes: Sequence[_Home], places: Sequence[_Home]) -> tuple[str, ...]:
    if len(places) < len(homes):
        idle = format_id_list(home.node for home in homes[len(places) :])
        return (f"fewer workers ({len(places)}) than NUMA nodes ({len(homes)}): node {idle} stays idle",)
    if len(places) > len(homes):
        return (f"fewer NUMA nodes ({len(homes)}) than workers ({len(places)}): workers share the cores out",)
    return ()


def _thread_notes(cpus: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    every = [cpu for worker in cpus for cpu in worker]
    if len(set(every)) < len(every):
        return (f"more threads ({len(every)}) than CPUs to run them ({len(set(every))}): threads take turns",)
    if len({len(worker) for worker in cpus}) > 1:
        counts = ", ".join(str(len(worker)) for worker in cpus)
        return (f"workers differ in threads ({counts}) but own equal parts: the smallest sets the pace",)
    return ()
