"""What `numoe plan --hosts` shows: which host runs which layers, whether they fit, and how fast that should be."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_count, ruled_table
from numoe.model.architectures.spec import ModelSpec, stage_of
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.machine.id_lists import format_id_list
from numoe.model.planning.hosts_plan import HostsPlan
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.model.planning.prediction.host_layers import HostForecast, HostLayers, LayerBytes
from numoe.model.planning.worker_memory import worker_memory
from numoe.protos.messages import StepLimits


def describe_workers(plan: HostsPlan, spec: ModelSpec, limits: StepLimits, types: KvTypes) -> RenderableType:
    """Tabulate where each host's workers lie, and what they hold of its layers."""
    table = ruled_table("workers", "host", "worker", "node", "CPUs", "experts", "weights", "KV cache")
    for host in plan.hosts:
        stage = stage_of(spec, host.layers.start, host.layers.stop)
        for shard, memory in zip(host.plan.shards, worker_memory(host.plan, stage, limits, types), strict=True):
            nodes, cpus = format_id_list(shard.memory_nodes), format_id_list(shard.allowed_cpus)
            sizes = (human_bytes(memory.weights), human_bytes(memory.kv_cache))
            table.add_row(host.address, str(shard.worker), nodes, cpus, _held(host.plan, shard), *sizes)
    return table


def _held(plan: ShardPlan, shard: Shard) -> str:
    """Of each layer's experts."""
    if plan.split != "tensor":
        return "whole ones" if plan.split == "expert" else "whole ones or rows"
    return f"rows {shard.expert_rows.start}-{shard.expert_rows.stop - 1} of each"


def describe_hosts(
    hosts: Sequence[str], forecasts: Sequence[HostForecast], sizes: LayerBytes, layers: HostLayers
) -> RenderableType:
    """Tabulate each host's layers, time and memory, then the rates of all together."""
    count, batch = len(sizes.layers), forecasts[0].batch
    table = ruled_table("hosts", "host", "nodes", "cores", "layers", "ms a step", "needs", "has")
    ends = [*layers.starts[1:], count]
    for host, one, start, stop, seconds in zip(hosts, forecasts, layers.starts, ends, layers.seconds, strict=True):
        needed = sum(sizes.layers[start:stop]) + one.fixed
        needed += (sizes.embedding if start == 0 else 0) + (sizes.output if stop == count else 0)
        place = (host, str(one.nodes), str(one.cores), f"{start}-{stop - 1}", f"{1e3 * seconds:.2f}")
        table.add_row(*place, human_bytes(needed), human_bytes(one.room))
    many = human_count(batch * len(hosts), "stream") if len(hosts) > 1 else human_count(batch, "stream")
    lines = [
        f"Predicted: {layers.alone:.3g} tokens/s for one stream, {layers.batched:.3g} for {many} or more.",
        "One stream goes through all hosts in turn; the exchange between two takes 1 to 4 ms of each step.",
    ]
    if layers.one_host is not None:
        alone = 1 / forecasts[layers.one_host].alone
        lines.append(f"{hosts[layers.one_host]} alone would make {alone:.3g} tokens/s of one stream: it holds all.")
    return Group(table, *map(Text, lines))
