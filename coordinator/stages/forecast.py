"""What this host says of itself before layers are shared out, and what there is to share out."""

from __future__ import annotations

from numoe.coordinator.limits import step_limits
from numoe.coordinator.machine.planning import decide_plan
from numoe.coordinator.settings import ServeSettings, kv_types
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.panels import rows_bytes
from numoe.model.planning.plan_size import kv_position_bytes
from numoe.model.planning.prediction.host_layers import HostForecast, LayerBytes
from numoe.model.planning.worker_memory import SERVICE_BYTES, worker_memory


def forecast_here(spec: ModelSpec, settings: ServeSettings) -> HostForecast:
    """How fast this machine would run the whole of a model, and how much of it it has room for."""
    topology = read_topology()
    best = decide_plan(spec, topology, settings).choice.best
    limits, types = step_limits(settings.engine, spec.context_length), kv_types(settings.engine)
    memory = worker_memory(best.plan, spec, limits, types)
    free = sum(node.available_bytes for node in topology.nodes)
    return HostForecast(
        alone=best.alone.seconds.total,
        batched=best.batched.seconds.total,
        batch=settings.workers.batch,
        room=free if topology.memory_left is None else min(free, topology.memory_left),
        fixed=sum(one.working + one.process for one in memory) + SERVICE_BYTES,
        nodes=len({shard.node for shard in best.plan.shards}),
        cores=len({cpu for shard in best.plan.shards for cpu in shard.cpus}),
    )


def layer_bytes(spec: ModelSpec, settings: ServeSettings) -> LayerBytes:
    """What the model's layers take, with keys and values of all positions that are kept."""
    limits = step_limits(settings.engine, spec.context_length)
    kept = kv_position_bytes(spec, spec.kv_heads, kv_types(settings.engine)) // spec.layers
    kept *= limits.kv_blocks * limits.block_positions
    layers = (sum(one.bytes for one in layer.matrices) for layer in spec.layer_tensors)
    return LayerBytes(
        layers=tuple(size + kept for size in layers),
        embedding=spec.token_embedding.bytes,
        output=rows_bytes(spec.output, spec.vocabulary),
    )
