"""A plan over several hosts: which layers each runs, and who owns what of them there."""

from __future__ import annotations

from dataclasses import dataclass

from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.plan import Range, ShardPlan
from numoe.protos.errors import PlanError


@dataclass(frozen=True, slots=True)
class HostPart:
    """What one host runs."""

    address: str
    layers: Range  # of the model
    plan: ShardPlan  # of those layers, as of a model of its own


@dataclass(frozen=True, slots=True)
class HostsPlan:
    """A whole model, split over hosts and there over workers."""

    model: str
    hosts: tuple[HostPart, ...]  # in the order of their layers


def check_hosts(plan: HostsPlan, spec: ModelSpec) -> None:
    """Raise PlanError unless every layer is run by one host, the hosts in order, and none stands twice."""
    addresses = [host.address for host in plan.hosts]
    if twice := next((one for one in addresses if addresses.count(one) > 1), None):
        raise PlanError(f"the plan names host {twice} twice, expected each once, with consecutive layers")
    expected = 0
    for host in plan.hosts:
        if host.layers.start != expected:
            found = f"host {host.address} begins with layer {host.layers.start}"
            raise PlanError(
                f"{found}, expected {expected}: hosts stand in the order of their layers, and leave none out"
            )
        expected = host.layers.stop
    if expected != spec.layers:
        raise PlanError(f"the plan ends with layer {expected - 1}, expected {spec.layers - 1}, the model's last")
