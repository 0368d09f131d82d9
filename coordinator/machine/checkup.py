"""Examines a machine for `numoe doctor`: reads, tries and measures this one, or only reads the copy of another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from numoe.coordinator.limits import step_limits
from numoe.coordinator.machine.measuring import measure_bandwidth, measure_waits
from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.machine.planning import decide_plan
from numoe.coordinator.settings import ServeSettings, kv_types
from numoe.model.doctor.diagnosis import Needs, diagnose, needs_of
from numoe.model.doctor.finding import Finding, worst
from numoe.model.doctor.measured_bandwidth import check_load
from numoe.model.machine.bandwidth import Bandwidth, bandwidth_file, load_bandwidth, save_bandwidth
from numoe.model.machine.memory_policy import PolicyTrial, try_policies
from numoe.model.machine.shared_pages import shared_huge_pages
from numoe.model.machine.topology import Topology
from numoe.protos.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Checkup:
    """What came of it; without a measurement, the last one's figures."""

    findings: tuple[Finding, ...]
    bandwidth: Bandwidth | None
    topology: Topology

    @property
    def failed(self) -> bool:
        return worst(self.findings) == "problem"


def examine(
    topology: Topology,
    root: Path,
    model: Path | None,
    settings: ServeSettings,
    measure: bool,
    announce: Callable[[str], None],
) -> Checkup:
    """Run every check that can be run; `announce` is told what begins that takes seconds.

    Raises SetupError for a model that cannot be read or planned.
    """
    named = model is not None or settings.model.packed is not None
    wanted = _weigh_model(model, topology, settings) if named else None
    if root != Path("/"):
        return Checkup(diagnose(root, topology, wanted), None, topology)
    if measure:
        announce("measuring memory")
        bandwidth, remarks = _measure(topology)
    else:
        bandwidth, remarks = load_bandwidth(bandwidth_file(), topology), []
    findings = diagnose(root, topology, wanted, bandwidth, _try_policies(topology), shared_huge_pages())
    return Checkup((*findings, *remarks), bandwidth, topology)


def _weigh_model(model: Path | None, topology: Topology, settings: ServeSettings) -> Needs:
    """What the model's plan wants of the machine."""
    spec = read_spec(model, settings)
    plan = decide_plan(spec, topology, settings).plan
    limits = step_limits(settings.engine, spec.context_length)
    return needs_of(plan, spec, limits, kv_types(settings.engine))


def _try_policies(topology: Topology) -> PolicyTrial | None:
    """On the last node with memory: where memory lies by chance it is more often on the first."""
    nodes = [node.id for node in topology.nodes if node.memory_bytes]
    return try_policies(nodes[-1]) if nodes else None


def _measure(topology: Topology) -> tuple[Bandwidth | None, list[Finding]]:
    """The figures, kept for later, and what is to be said of them; None where measuring failed."""
    load = os.getloadavg()[0]
    try:
        measured = measure_bandwidth(topology)
    except ServiceError as error:
        return None, [Finding("warning", "bandwidth", str(error))]
    remarks = [Finding("warning", "bandwidth", remark) for remark in measured.remarks]
    remarks += check_load(load, sum(len(node.cores) for node in topology.nodes))
    bandwidth = measured.bandwidth
    try:
        bandwidth = replace(bandwidth, waits=measure_waits(topology))
    except ServiceError as error:
        remarks.append(Finding("warning", "waits", str(error)))
    try:
        save_bandwidth(bandwidth, bandwidth_file())
    except OSError as error:
        remarks.append(Finding("note", "bandwidth", f"cannot be kept for later: {error}"))
    return bandwidth, remarks
