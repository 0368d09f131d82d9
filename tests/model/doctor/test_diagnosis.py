"""The whole examination: a sound machine has nothing to mend, and a model's plan is part of it."""

from __future__ import annotations

from pathlib import Path

from numoe.model.architectures.reading import model_spec
from numoe.model.doctor.diagnosis import diagnose, needs_of
from numoe.model.doctor.finding import worst
from numoe.model.gguf.kv_types import HALF_FLOATS
from numoe.model.gguf.model_file import open_gguf
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.splitting import make_plan
from tests.machines import restrict, set_governor, write, write_machine, write_node_memory
from tests.model.doctor.findings import TWO_NODES
from tests.model.planning.examples import LIMITS
from tests.tiny_model import TinyShape, tiny_spec, write_tiny_model


def test_a_sound_machine_has_nothing_to_mend(tmp_path: Path) -> None:
    root = write_machine(tmp_path, TWO_NODES)
    set_governor(root, "performance", "acpi-cpufreq")
    restrict(root, "0-7", "0-1")
    findings = diagnose(root, read_topology(root))
    assert {finding.level for finding in findings} == {"ok"}
    assert worst(findings) == "ok"


def test_every_recorded_machine_can_be_judged(recorded_machines: Path) -> None:
    for root in recorded_machines.iterdir():
        assert worst(diagnose(root, read_topology(root))) in ("ok", "note", "warning")


def test_an_empty_tree_is_no_crash(tmp_path: Path) -> None:
    assert diagnose(tmp_path, read_topology(tmp_path))


def test_faults_add_up_and_the_worst_decides(tmp_path: Path) -> None:
    root = write_machine(tmp_path, TWO_NODES)
    write(root, "proc/sys/kernel/numa_balancing", "1")
    assert worst(diagnose(root, read_topology(root))) == "note"
    write(root, "proc/sys/vm/zone_reclaim_mode", "1")
    assert worst(diagnose(root, read_topology(root))) == "warning"
    set_governor(root, "powersave", "acpi-cpufreq")
    assert worst(diagnose(root, read_topology(root))) == "problem"


def test_a_model_s_plan_is_held_against_the_nodes(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny.gguf", TinyShape())
    root, spec = write_machine(tmp_path / "machine", TWO_NODES), model_spec(open_gguf(tmp_path / "tiny.gguf"))
    topology = read_topology(root)
    wanted = needs_of(make_plan(spec, topology), spec, LIMITS, HALF_FLOATS)
    assert sorted(wanted.held) == sorted(wanted.read_per_token) == [0, 1]
    assert all(0 < wanted.read_per_token[node] < wanted.held[node] for node in (0, 1))
    assert worst(diagnose(root, topology, wanted)) == "ok"
    write_node_memory(root, 1, 4 << 20, wanted.held[1] // 1024 - 1, 0)
    findings = diagnose(root, read_topology(root), wanted)
    assert [finding.subject for finding in findings if finding.level == "problem"] == ["room for the model"]


def test_the_planner_s_notes_are_passed_on(recorded_machines: Path) -> None:
    root, spec = recorded_machines / "cpu-less", tiny_spec(TinyShape())
    topology = read_topology(root)
    findings = diagnose(root, topology, needs_of(make_plan(spec, topology), spec, LIMITS, HALF_FLOATS))
    assert "node 2 has memory but no usable CPUs: left out" in [finding.found for finding in findings]
