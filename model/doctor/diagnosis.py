"""Looks a machine over for what slows a model down or keeps it from running."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from numoe.model.architectures.spec import ModelSpec
from numoe.model.doctor import (
    kernel as doctor_kernel,
)
from numoe.model.doctor import (
    nodes as doctor_nodes,
)
from numoe.model.doctor import (
    process as doctor_process,
)
from numoe.model.doctor import (
    speed as doctor_bandwidth,
)
from numoe.model.doctor.finding import Finding
from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.bandwidth import Bandwidth
from numoe.model.machine.memory_policy import PolicyTrial
from numoe.model.machine.topology import Topology
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_size import node_bytes, shard_bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a model's plan asks of each node, in bytes by node id."""

    held: dict[int, int] = field(default_factory=dict)  # weights and KV cache
    read_per_token: dict[int, int] = field(default_factory=dict)  # weights
    notes: tuple[str, ...] = ()  # the planner's


def wanted_by(plan: ShardPlan, spec: ModelSpec, context_tokens: int, kv_type: TensorType) -> Wanted:
    reads: dict[int, int] = {}
    for shard in plan.shards:
        count = shard_bytes(plan, spec, shard, context_tokens, kv_type).read_per_token
        reads[shard.node] = reads.get(shard.node, 0) + count
    return Wanted(node_bytes(plan, spec, context_tokens, kv_type), reads, plan.notes)


def diagnose(
    root: Path,
    topology: Topology,
    wanted: Wanted | None = None,
    bandwidth: Bandwidth | None = None,
    trial: PolicyTrial | None = None,
) -> tuple[Finding, ...]:
    """Every check, in the order in which a person would look.

    `topology` was read below `root`. `trial` is what came of trying the memory policies, None in a copied tree;
    `bandwidth` None leaves out what needs a measurement, `wanted` None what needs a model.
    """
    return tuple(_findings(root, topology, wanted or Wanted(), bandwidth, trial))


def _findings(
    root: Path, topology: Topology, wanted: Wanted, bandwidth: Bandwidth | None, trial: PolicyTrial | None
) -> Iterator[Finding]:
    yield from doctor_nodes.check_sockets(topology)
    yield from doctor_nodes.check_memory_of_nodes(topology)
    yield from doctor_kernel.check_hardware_threads(topology)
    yield from doctor_process.check_allowed(topology)
    yield from doctor_process.check_cpu_quota(root, topology)
    yield from doctor_process.check_memory_limit(root, topology, wanted.held)
    yield from doctor_process.check_policies(root, topology, trial)
    yield from doctor_kernel.check_balancing(topology, doctor_process.policies_refused(root, trial))
    yield from doctor_kernel.check_huge_pages(root)
    yield from doctor_kernel.check_frequency(root)
    yield from doctor_kernel.check_reclaim(root, topology)
    yield from doctor_kernel.check_swap(root)
    yield from doctor_nodes.check_page_cache(root, topology, wanted.held)
    yield from doctor_nodes.check_room(topology, wanted.held)
    yield from (Finding("note", "plan", note) for note in wanted.notes)
    if bandwidth is not None:
        yield from doctor_bandwidth.check_local(bandwidth)
        yield from doctor_bandwidth.check_remote(bandwidth, topology)
        yield from doctor_bandwidth.check_speed(bandwidth, wanted.read_per_token)
