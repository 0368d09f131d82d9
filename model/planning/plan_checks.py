"""Checks that a plan, which a person may have edited, fits a model and a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS, KvTypes
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Topology
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import BLOCK_ROWS, MOST_WORKERS, PANEL_ROWS, Range, ShardPlan, kv_heads_of
from numoe.model.planning.worker_memory import MEBIBYTE, SERVICE_BYTES, node_bytes
from numoe.protos.errors import PlanError
from numoe.protos.foreign_text import one_line
from numoe.protos.messages import StepLimits


def check_plan(plan: ShardPlan, spec: ModelSpec) -> None:
    """Raise PlanError unless the plan splits just this model, and every head and row is owned once, in whole units."""
    if plan.model != spec.name:
        planned = one_line(repr(plan.model), 120)
        raise PlanError(f"model: the plan is for {planned}, found {spec.name!r}; make a new one with `numoe plan`")
    if not 1 <= len(plan.shards) <= MOST_WORKERS:
        raise PlanError(f"the plan: found {len(plan.shards)} shards, expected 1 to {MOST_WORKERS}")
    _check_cover("heads", [shard.heads for shard in plan.shards], spec.query_heads, 1)
    _check_cover("width_rows", [shard.width_rows for shard in plan.shards], spec.width, PANEL_ROWS)
    _check_cover("expert_rows", [shard.expert_rows for shard in plan.shards], spec.expert_width, BLOCK_ROWS)
    _check_cover("vocabulary", [shard.vocabulary for shard in plan.shards], spec.vocabulary, PANEL_ROWS)
    for layer, owners in enumerate(plan.experts):
        if owners is not None:
            _check_owners(f"layer {layer}", owners, spec)
    for shard in plan.shards:
        needed = kv_heads_of(spec, shard.heads)
        if shard.heads.size and shard.kv_heads != needed:
            found = f"[{shard.kv_heads.start}, {shard.kv_heads.stop}]"
            expected = f"[{needed.start}, {needed.stop}]"
            raise PlanError(f"shard {shard.worker}: kv_heads: found {found}, expected {expected}, what its heads need")
        if not shard.heads.size and shard.kv_heads.size:
            raise PlanError(f"shard {shard.worker}: kv_heads: expected an empty range as it has no heads")


def check_placement(
    plan: ShardPlan,
    spec: ModelSpec,
    topology: Topology,
    limits: StepLimits,
    kv_types: KvTypes = HALF_FLOATS,
) -> None:
    """Raise PlanError unless the plan's CPUs and nodes are usable here and its bytes fit the memory.

    That is the memory of each node, of all nodes together, and what the limits of this process's cgroups leave of it.
    """
    usable = {node.id for node in topology.nodes if node.memory_bytes}
    for shard in plan.shards:
        if missing := set(shard.memory_nodes) - usable:
            raise PlanError(
                f"worker {shard.worker}: node {format_id_list(missing)} has no memory that we may use here, "
                f"expected one of {format_id_list(usable)}; make a new plan with `numoe plan`"
            )
        if missing := {*shard.cpus, *shard.allowed_cpus} - set(topology.cpus):
            raise PlanError(
                f"worker {shard.worker}: CPU {format_id_list(missing)} is not usable here, "
                f"expected some of {format_id_list(topology.cpus)}; make a new plan with `numoe plan`"
            )
    needed = node_bytes(plan, spec, limits, kv_types, room=available_bytes(topology))
    for demand in memory_demands(needed, topology):
        if demand.bytes > demand.available:
            raise PlanError(
                f"{demand.name}: needs {_mebibytes(demand.bytes)} for {demand.purpose}, "
                f"{_mebibytes(demand.available)} are available{demand.remedy}"
            )


def available_bytes(topology: Topology) -> dict[int, int]:
    """What each node has to give, by its id."""
    return {node.id: node.available_bytes for node in topology.nodes}


@dataclass(frozen=True, slots=True)
class MemoryDemand:
    """What is asked of one place, and what it has."""

    place: str  # the number of a node, or a word for several
    bytes: int
    available: int
    purpose: str = "weights, KV cache and working memory"
    remedy: str = "; lower the context, --step-tokens or --sequences, spread over more nodes, or choose a smaller model"

    @property
    def name(self) -> str:
        """The place, in a sentence."""
        return f"node {self.place}" if self.place.isdecimal() else self.place


def memory_demands(bytes_of_nodes: Mapping[int, int], topology: Topology) -> list[MemoryDemand]:
    """What workers that take so many bytes, by node id, and all that runs beside them ask of nodes and cgroups."""
    room = available_bytes(topology)
    demands = [MemoryDemand(str(node), size, room.get(node, 0)) for node, size in bytes_of_nodes.items()]
    whole, every = sum(bytes_of_nodes.values()) + SERVICE_BYTES, "the workers, the coordinator and Ray"
    demands.append(MemoryDemand("all nodes", whole, sum(room.values()), every))
    if topology.memory_left is not None:
        remedy = (
            ", and the kernel would kill a worker; raise the limit (docker run --memory, Kubernetes resources.limits, "
            "systemd MemoryMax=), lower the context, --step-tokens or --sequences, or choose a smaller model"
        )
        demands.append(MemoryDemand("the cgroup's memory limit", whole, topology.memory_left, every, remedy))
    return demands


def fits_memory(bytes_of_nodes: Mapping[int, int], topology: Topology) -> bool:
    """Whether workers that take so many bytes, by node id, and what runs beside them fit nodes and cgroups."""
    return all(demand.bytes <= demand.available for demand in memory_demands(bytes_of_nodes, topology))


def _check_owners(where: str, owners: ExpertOwners, spec: ModelSpec) -> None:
    if not spec.routed:
        raise PlanError(f"{where}: the model has no experts to hold whole; remove the [[experts]] tables")
    if missing := [expert for expert, holders in enumerate(owners.workers) if not holders]:
        raise PlanError(f"{where}: expert {format_id_list(missing)} has no owner, expected one or more for each")


def _check_cover(name: str, ranges: Sequence[Range], size: int, unit: int) -> None:
    covered = 0
    for owned in sorted((owned for owned in ranges if owned.size), key=lambda owned: owned.start):
        if owned.start != covered:
            fault = "have no owner" if owned.start > covered else "have two owners"
            low, high = min(owned.start, covered), max(owned.start, covered)
            raise PlanError(f"{name}: {low} to {high - 1} {fault}, expected exactly one each")
        if owned.start % unit or (owned.stop % unit and owned.stop != size):
            raise PlanError(f"{name}: found [{owned.start}, {owned.stop}], expected multiples of {unit}")
        covered = owned.stop
    starts = [owned.start for owned in ranges if owned.size]
    if starts != sorted(starts):
        raise PlanError(f"{name}: the workers' ranges start at {starts}, expected them to ascend; exchange them")
    if covered != size:
        raise PlanError(f"{name}: the ranges end at {covered}, expected {size}, the size of the model")


def _mebibytes(count: int) -> str:
    return f"{-(-count // MEBIBYTE):,} MiB"
