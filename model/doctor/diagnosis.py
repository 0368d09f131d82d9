"""Checks a machine for all that slows a model down or keeps it from running."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from numoe.model.architectures.spec import ModelSpec
from numoe.model.doctor.finding import Finding
from numoe.model.doctor.linux_settings import (
    check_balancing,
    check_frequency,
    check_hardware_threads,
    check_huge_pages,
    check_reclaim,
    check_shared_pages,
    check_swap,
)
from numoe.model.doctor.measured_bandwidth import check_local, check_remote, check_speed, check_waits
from numoe.model.doctor.node_memory import check_memory_of_nodes, check_page_cache, check_room
from numoe.model.doctor.process_limits import (
    check_allowed,
    check_cpu_quota,
    check_memory_limit,
    check_policies,
    policies_refused,
)
from numoe.model.doctor.sockets import check_sockets
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.machine.bandwidth import Bandwidth
from numoe.model.machine.memory_policy import PolicyTrial
from numoe.model.machine.topology import Topology
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.worker_memory import node_bytes, spread_bytes
from numoe.protos.messages import StepLimits


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model's plan asks of each node, in bytes by node id."""

    held: dict[int, int] = field(default_factory=dict)  # all that its workers take
    read_per_token: dict[int, int] = field(default_factory=dict)  # weights
    notes: tuple[str, ...] = ()  # of the plan


def needs_of(plan: ShardPlan, spec: ModelSpec, limits: StepLimits, kv_types: KvTypes) -> Needs:
    """Count what a plan asks of each node."""
    reads: dict[int, int] = {}
    for shard in plan.shards:
        count = shard_bytes(plan, spec, shard).read_per_token
        for node, part in spread_bytes(count, shard.memory_nodes).items():
            reads[node] = reads.get(node, 0) + part
    return Needs(node_bytes(plan, spec, limits, kv_types), reads, plan.notes)


def diagnose(
    root: Path,
    topology: Topology,
    needs: Needs | None = None,
    bandwidth: Bandwidth | None = None,
    trial: PolicyTrial | None = None,
    shared_pages: bool | None = None,
) -> tuple[Finding, ...]:
    """Make every check, in the order in which a person would look.

    Args:
        root: the folder below which /sys and /proc are read.
        topology: was read below `root`.
        needs: None leaves out what needs a model.
        bandwidth: None leaves out what needs a measurement.
        trial: what came of trying the memory policies; None in a copied tree.
        shared_pages: whether shared memory got huge pages in a trial; None in a copied tree.
    """
    return tuple(_findings(root, topology, needs or Needs(), bandwidth, trial, shared_pages))


def _findings(
    root: Path,
    topology: Topology,
    needs: Needs,
    bandwidth: Bandwidth | None,
    trial: PolicyTrial | None,
    shared_pages: bool | None,
) -> Iterator[Finding]:
    yield from check_sockets(topology)
    yield from check_memory_of_nodes(topology)
    yield from check_hardware_threads(topology)
    yield from check_allowed(topology)
    yield from check_cpu_quota(root, topology)
    yield from check_memory_limit(root, topology, needs.held)
    yield from check_policies(root, topology, trial)
    yield from check_balancing(topology, policies_refused(root, trial))
    yield from check_huge_pages(root)
    yield from check_shared_pages(root, shared_pages)
    yield from check_frequency(root)
    yield from check_reclaim(root, topology)
    yield from check_swap(root)
    yield from check_page_cache(root, topology, needs.held)
    yield from check_room(topology, needs.held)
    yield from (Finding("note", "plan", note) for note in needs.notes)
    if bandwidth is not None:
        yield from check_local(bandwidth)
        yield from check_waits(bandwidth.waits)
        yield from check_remote(bandwidth, topology)
        yield from check_speed(bandwidth, needs.read_per_token)
