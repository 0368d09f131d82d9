"""What a process may do: cgroups of either version, allowed CPUs and nodes, memory policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.model.doctor.process_limits import (
    check_allowed,
    check_cpu_quota,
    check_memory_limit,
    check_policies,
    policies_refused,
)
from numoe.model.machine.memory_policy import PolicyTrial
from numoe.model.machine.topology_reading import read_topology
from tests.machines import restrict, write, write_machine
from tests.model.doctor.findings import ONE_NODE, TWO_NODES, said

GIB = 1 << 30
DOCKER_CAPABILITIES = 0xA80425FB  # what a container has by default: without CAP_SYS_NICE
REFUSED = PolicyTrial((("mbind", "Operation not permitted (EPERM)"),), 1, None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two nodes of 4 GiB, 4 cores in all; in a cgroup of version 2 without limits."""
    root = write_machine(tmp_path, TWO_NODES)
    write(root, "proc/self/cgroup", "0::/outer/inner")
    for folder in ("", "/outer", "/outer/inner"):
        write(root, f"sys/fs/cgroup{folder}/cgroup.controllers", "cpuset cpu memory")
    for folder in ("/outer", "/outer/inner"):  # the root has none of these files
        write(root, f"sys/fs/cgroup{folder}/memory.max", "max")
        write(root, f"sys/fs/cgroup{folder}/cpu.max", "max 100000")
    return root


def memory(root: Path, needed: int = 0) -> list[tuple[str, str]]:
    return said(check_memory_limit(root, read_topology(root), {0: needed}), "cgroup memory")


def cpu_time(root: Path) -> list[tuple[str, str]]:
    return said(check_cpu_quota(root, read_topology(root)), "cgroup CPU time")


def test_no_limit_is_told_from_one(root: Path) -> None:
    assert memory(root, 3 * GIB) == [("ok", "no limit below the machine's memory")]
    assert cpu_time(root) == [("ok", "no quota")]
    write(root, "sys/fs/cgroup/outer/inner/memory.max", str(100 * GIB))
    assert [level for level, _ in memory(root)] == ["ok"]


@pytest.mark.parametrize("folder", ["outer", "outer/inner"])
def test_a_limit_anywhere_above_counts(root: Path, folder: str) -> None:
    write(root, f"sys/fs/cgroup/{folder}/memory.max", str(2 * GIB))
    assert memory(root, GIB) == [("note", "limited to 2.0 GiB of 8.0")]
    assert [level for level, _ in memory(root, 3 * GIB)] == ["problem"]
    assert [level for level, _ in memory(root, 2 * GIB - (1 << 20))] == ["problem"]  # beside which Ray has no room


def test_page_cache_does_not_count_against_a_limit(root: Path) -> None:
    folder = "sys/fs/cgroup/outer/inner"
    write(root, f"{folder}/memory.max", str(4 * GIB))
    write(root, f"{folder}/memory.current", str(3 * GIB))
    assert [level for level, _ in memory(root, 2 * GIB)] == ["problem"]
    write(root, f"{folder}/memory.stat", f"anon {GIB}\nfile {2 * GIB}")
    assert [level for level, _ in memory(root, 2 * GIB)] == ["note"]


@pytest.mark.parametrize(("quota", "level"), [("400000", "note"), ("350000", "problem"), ("max", "ok")])
def test_a_quota_must_be_enough_for_every_core(root: Path, quota: str, level: str) -> None:
    write(root, "sys/fs/cgroup/outer/cpu.max", f"{quota} 100000")
    [(found, text)] = cpu_time(root)
    assert found == level
    assert ("3.5 CPUs for 4 cores" in text) == (quota == "350000")


def test_limits_of_version_1_are_read_too(root: Path) -> None:
    write(root, "proc/self/cgroup", "5:memory:/pod\n4:cpu,cpuacct:/pod\n0::/")
    write(root, "sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "9223372036854771712")
    write(root, "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us", "-1")
    write(root, "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us", "100000")
    assert (memory(root)[0][0], cpu_time(root)[0][0]) == ("ok", "ok")
    write(root, "sys/fs/cgroup/memory/pod/memory.limit_in_bytes", str(GIB))
    write(root, "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us", "150000")
    assert (memory(root, 2 * GIB)[0][0], cpu_time(root)[0][0]) == ("problem", "problem")


@pytest.mark.parametrize("path", ["/elsewhere", "/..", "/../../somewhere"])
def test_a_container_sees_its_cgroup_as_the_root(root: Path, path: str) -> None:
    write(root, "proc/self/cgroup", f"0::{path}")
    write(root, "sys/fs/cgroup/memory.max", str(GIB))
    assert memory(root)[0][0] == "note"


def test_what_may_not_be_used_is_said(root: Path) -> None:
    def allowed() -> list[tuple[str, str]]:
        return said(check_allowed(read_topology(root)), "allowed CPUs and nodes")

    assert allowed() == [("ok", "all CPUs")]
    restrict(root, "0-1,4-5", "0")
    assert allowed() == [("note", "CPUs 2-3,6-7 may not be used (affinity or cpuset)")]
    restrict(root, "0-7", "0")
    assert allowed() == [("warning", "the memory of node 1 may not be used, its CPUs may")]
    restrict(root, "0-2,4-6", "0-1")
    assert allowed()[0] == ("warning", "uneven: node 0 2 cores, node 1 1 cores")


def policies(root: Path, trial: PolicyTrial | None) -> list[tuple[str, str]]:
    return said(check_policies(root, read_topology(root), trial), "memory policies")


def test_policies_are_judged_by_what_came_of_calling_them(root: Path) -> None:
    worked = PolicyTrial((), 1, 1)
    assert (policies(root, worked)[0][0], policies_refused(root, worked)) == ("ok", False)
    assert policies(root, REFUSED) == [("warning", "refused: mbind (Operation not permitted (EPERM))")]
    assert policies_refused(root, REFUSED)
    astray = PolicyTrial((), 1, 0)
    assert policies(root, astray) == [("problem", "a page bound to node 1 lies on node 0")]
    assert policies_refused(root, astray)


def test_pages_that_cannot_be_looked_at_are_no_fault_of_a_missing_capability(root: Path) -> None:
    """As in a container with SYS_NICE, whose runtime's profile lets memory be bound, and no page be asked about."""
    blind = PolicyTrial((("move_pages", "Operation not permitted (EPERM)"),), 1, None)
    [finding] = list(check_policies(root, read_topology(root), blind))
    assert (finding.level, finding.found) == ("warning", "refused: move_pages (Operation not permitted (EPERM))")
    assert finding.cost == "workers are bound, and no page of theirs can be looked at or moved: no proof"
    assert "SYS_NICE" not in finding.remedy
    assert "seccomp" in finding.remedy
    assert policies_refused(root, blind) is False


def test_refused_policies_cost_nothing_on_one_node(tmp_path: Path) -> None:
    assert policies(write_machine(tmp_path, ONE_NODE), REFUSED)[0][0] == "note"


@pytest.mark.parametrize(
    ("seccomp", "capabilities", "level"),
    [(0, DOCKER_CAPABILITIES, "ok"), (2, DOCKER_CAPABILITIES, "warning"), (2, DOCKER_CAPABILITIES | 1 << 23, "ok")],
)
def test_a_copied_tree_tells_what_containers_refuse(root: Path, seccomp: int, capabilities: int, level: str) -> None:
    restrict(root, "0-7", "0-1", seccomp=seccomp, capabilities=capabilities)
    assert policies(root, None)[0][0] == level
    assert policies_refused(root, None) == (level != "ok")
