"""What `numoe plan` shows of a plan: who owns what, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_count, ruled_table
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS, KvTypes
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Topology
from numoe.model.planning.plan import Range, Shard, ShardPlan
from numoe.model.planning.plan_checks import available_bytes, memory_demands
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.worker_memory import WorkerMemory, node_bytes, worker_memory
from numoe.protos.foreign_text import harmless
from numoe.protos.messages import StepLimits

_HOW: Mapping[Literal["interleave", "bind", "any"], str] = {"interleave": "in turn", "bind": "any", "any": "unbound"}


def describe_plan(
    plan: ShardPlan,
    spec: ModelSpec,
    topology: Topology,
    limits: StepLimits,
    kv_types: KvTypes = HALF_FLOATS,
) -> RenderableType:
    """Tabulate each worker's place, share and bytes, then each node's memory against what the plan needs."""
    reads = [shard_bytes(plan, spec, shard).read_per_token for shard in plan.shards]
    memory = worker_memory(plan, spec, limits, kv_types)
    return Group(
        Text(f"{harmless(plan.model)}: {plan.split} split over {human_count(len(plan.shards), 'worker')}"),
        _place_table(plan, memory, reads),
        _rows_table(plan),
        _fit_table(node_bytes(plan, spec, limits, kv_types, room=available_bytes(topology)), topology),
        Text(f"One generated token reads {human_bytes(sum(reads))} of weights."),
        Text(f"The KV cache holds {limits.kv_blocks * limits.block_positions:,} positions."),
        *(Text(f"Note: {harmless(note)}") for note in plan.notes),
    )


def _place_table(plan: ShardPlan, memory: Sequence[WorkerMemory], reads: Sequence[int]) -> Table:
    columns = ("weights", "KV cache", "working", "process", "read/token")
    table = ruled_table("where", "worker", "node", "CPUs", "threads", *columns)
    for shard, one, read in zip(plan.shards, memory, reads, strict=True):
        cpus = format_id_list(shard.allowed_cpus) + ("" if shard.pinned else ", not pinned")
        place = (str(shard.worker), _nodes(shard), cpus, str(len(shard.cpus)))
        sizes = (one.weights, one.kv_cache, one.working, one.process, read)
        table.add_row(*place, *(human_bytes(size) for size in sizes))
    return table


def _nodes(shard: Shard) -> str:
    """The nodes that hold a worker's memory, and how, if it is not bound to one."""
    nodes = format_id_list(shard.memory_nodes)
    return nodes if shard.spread is None else f"{nodes}, {_HOW[shard.spread.memory]}"


def _rows_table(plan: ShardPlan) -> Table:
    table = ruled_table("what", "worker", "heads", "kv heads", "width", "expert", "vocabulary")
    for shard in plan.shards:
        ranges = (shard.heads, shard.kv_heads, shard.width_rows, shard.expert_rows, shard.vocabulary)
        table.add_row(str(shard.worker), *(_span(owned) for owned in ranges))
    return table


def _span(owned: Range) -> str:
    """First and last owned index, as people count; a dash for nothing."""
    return f"{owned.start}-{owned.stop - 1}" if owned.size else "-"


def _fit_table(needed: Mapping[int, int], topology: Topology) -> RenderableType:
    table = ruled_table("memory", "node", "needed", "available", "fits")
    for demand in memory_demands(needed, topology):
        missing = demand.bytes - demand.available
        fits = "yes" if missing <= 0 else f"no, {human_bytes(missing)} short"
        table.add_row(demand.place, human_bytes(demand.bytes), human_bytes(demand.available), fits)
    return table
