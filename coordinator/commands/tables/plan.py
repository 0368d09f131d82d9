"""What `numoe plan` shows of a plan: who owns what, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_count, ruled_table
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Topology
from numoe.model.planning.plan import Range, ShardPlan
from numoe.model.planning.plan_size import ShardBytes, node_bytes, shard_bytes
from numoe.protos.foreign_text import harmless


def describe_plan(
    plan: ShardPlan,
    spec: ModelSpec,
    topology: Topology,
    kv_positions: int,
    kv_type: TensorType = TensorType.F16,
) -> RenderableType:
    """Tabulate each worker's place, share and bytes, then each node's memory against what the plan needs."""
    sizes = [shard_bytes(plan, spec, shard, kv_positions, kv_type) for shard in plan.shards]
    read = sum(size.read_per_token for size in sizes)
    return Group(
        Text(f"{harmless(plan.model)}: {plan.split} split over {human_count(len(plan.shards), 'worker')}"),
        _place_table(plan, sizes),
        _rows_table(plan),
        _fit_table(plan, spec, topology, kv_positions, kv_type),
        Text(f"One generated token reads {human_bytes(read)} of weights."),
        Text(f"The KV cache holds {kv_positions:,} positions."),
        *(Text(f"Note: {harmless(note)}") for note in plan.notes),
    )


def _place_table(plan: ShardPlan, sizes: Sequence[ShardBytes]) -> Table:
    table = ruled_table("where", "worker", "node", "CPUs", "threads", "weights", "KV cache", "read/token")
    for shard, size in zip(plan.shards, sizes, strict=True):
        place = (str(shard.worker), str(shard.node), format_id_list(shard.cpus), str(len(shard.cpus)))
        table.add_row(*place, *(human_bytes(count) for count in (size.weights, size.kv_cache, size.read_per_token)))
    return table


def _rows_table(plan: ShardPlan) -> Table:
    table = ruled_table("what", "worker", "heads", "kv heads", "width", "expert", "vocabulary")
    for shard in plan.shards:
        ranges = (shard.heads, shard.kv_heads, shard.width_rows, shard.expert_rows, shard.vocabulary)
        table.add_row(str(shard.worker), *(_span(owned) for owned in ranges))
    return table


def _span(owned: Range) -> str:
    """First and last owned index, as people count; a dash for nothing."""
    return f"{owned.start}-{owned.stop - 1}" if owned.size else "-"


def _fit_table(
    plan: ShardPlan, spec: ModelSpec, topology: Topology, kv_positions: int, kv_type: TensorType
) -> RenderableType:
    available = {node.id: node.available_bytes for node in topology.nodes}
    table = ruled_table("memory", "node", "needed", "available", "fits")
    needed = node_bytes(plan, spec, kv_positions, kv_type)
    rows = [(str(node_id), size, available.get(node_id, 0)) for node_id, size in needed.items()]
    if topology.memory_left is not None:
        rows.append(("cgroup limit", sum(needed.values()), topology.memory_left))
    for place, size, room in rows:
        fits = "yes" if size <= room else f"no, {human_bytes(size - room)} short"
        table.add_row(place, human_bytes(size), human_bytes(room), fits)
    return table
