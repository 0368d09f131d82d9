"""What `numoe doctor` does: reads, tries and measures this machine, or only reads the copy of another one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from numoe.coordinator.commands.terminal import LoadingView
from numoe.coordinator.machine.measuring import Measured, measure_bandwidth
from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.machine.planning import decide_plan
from numoe.coordinator.settings import KV_TYPES, ServeSettings, kv_tokens
from numoe.model.doctor.diagnosis import Wanted, diagnose, wanted_by
from numoe.model.doctor.finding import Finding, worst
from numoe.model.doctor.speed import check_load
from numoe.model.machine.bandwidth import Bandwidth, bandwidth_file, load_bandwidth, save_bandwidth
from numoe.model.machine.memory_policy import PolicyTrial, try_policies
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


def examine(topology: Topology, root: Path, model: Path | None, settings: ServeSettings, measure: bool) -> Checkup:
    """Run every check that can be run. Raises SetupError for a model that cannot be read or planned."""
    wanted = None if model is None else _wanted(model, topology, settings)
    if root != Path("/"):
        return Checkup(diagnose(root, topology, wanted), None, topology)
    remarks: list[Finding] = []
    bandwidth = _measure(topology, remarks) if measure else load_bandwidth(bandwidth_file(), topology)
    findings = diagnose(root, topology, wanted, bandwidth, _trial(topology))
    return Checkup((*findings, *remarks), bandwidth, topology)


def _wanted(model: Path, topology: Topology, settings: ServeSettings) -> Wanted:
    spec = read_spec(model)
    plan = decide_plan(spec, topology, settings).plan
    positions = kv_tokens(settings.engine, spec.context_length)
    return wanted_by(plan, spec, positions, KV_TYPES[settings.engine.kv_type])


def _trial(topology: Topology) -> PolicyTrial | None:
    """On the last node with memory: where memory lies by chance it is more often on the first."""
    nodes = [node.id for node in topology.nodes if node.memory_bytes]
    return try_policies(nodes[-1]) if nodes else None


def _measure(topology: Topology, remarks: list[Finding]) -> Bandwidth | None:
    load = os.getloadavg()[0]
    try:
        measured = _measured(topology)
    except ServiceError as error:
        remarks.append(Finding("warning", "bandwidth", str(error)))
        return None
    remarks += [Finding("warning", "bandwidth", remark) for remark in measured.remarks]
    remarks += check_load(load, sum(len(node.cores) for node in topology.nodes))
    try:
        save_bandwidth(measured.bandwidth, bandwidth_file())
    except OSError as error:
        remarks.append(Finding("note", "bandwidth", f"cannot be kept for later: {error}"))
    return measured.bandwidth


def _measured(topology: Topology) -> Measured:
    with LoadingView() as view:
        view("measuring memory", 0, 0)
        return measure_bandwidth(topology)
