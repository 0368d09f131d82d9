"""Kernel settings: each check finds the fault where it is, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.model.doctor.linux_settings import (
    check_balancing,
    check_frequency,
    check_hardware_threads,
    check_huge_pages,
    check_reclaim,
    check_shared_pages,
    check_swap,
)
from numoe.model.machine.topology_reading import read_topology
from tests.machines import set_governor, write, write_machine
from tests.model.doctor.findings import ONE_NODE, TWO_NODES, said

THP = "sys/kernel/mm/transparent_hugepage"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_machine(tmp_path, TWO_NODES)


def test_balancing_is_worse_where_memory_cannot_be_bound(root: Path) -> None:
    assert said(check_balancing(read_topology(root), True), "NUMA balancing") == [("ok", "off")]
    write(root, "proc/sys/kernel/numa_balancing", "1")
    topology = read_topology(root)
    for refused, level in ((False, "note"), (True, "warning")):
        [finding] = check_balancing(topology, refused)
        assert (finding.level, finding.remedy) == (level, "sysctl -w kernel.numa_balancing=0")


def test_one_node_has_nothing_to_balance(tmp_path: Path) -> None:
    root = write_machine(tmp_path, ONE_NODE)
    write(root, "proc/sys/kernel/numa_balancing", "1")
    assert [finding.level for finding in check_balancing(read_topology(root), True)] == ["ok"]


@pytest.mark.parametrize(
    ("enabled", "defrag", "level"),
    [
        ("[always] madvise never", "[always] defer defer+madvise madvise never", "ok"),
        ("always [madvise] never", "always defer defer+madvise [madvise] never", "ok"),
        ("always [madvise] never", "always defer [defer+madvise] madvise never", "ok"),
        ("always madvise [never]", "always defer defer+madvise [madvise] never", "warning"),
        ("always [madvise] never", "always defer defer+madvise madvise [never]", "note"),
        ("always [madvise] never", "always [defer] defer+madvise madvise never", "note"),
        ("", "", "note"),
    ],
)
def test_huge_pages_must_be_given_on_request(root: Path, enabled: str, defrag: str, level: str) -> None:
    write(root, f"{THP}/enabled", enabled)
    write(root, f"{THP}/defrag", defrag)
    [(found, _)] = said(check_huge_pages(root), "huge pages")
    assert found == level


@pytest.mark.parametrize(
    ("setting", "given", "level"),
    [
        ("always within_size [advise] never deny force", None, "ok"),
        ("always within_size [advise] never deny force", True, "ok"),
        ("always within_size advise [never] deny force", True, "ok"),
        ("always within_size advise [never] deny force", False, "note"),
        ("always within_size advise [never] deny force", None, None),
        ("always within_size advise never [deny] force", False, "note"),
        ("", True, "ok"),
        ("", False, "note"),
    ],
)
def test_kept_weights_want_huge_pages(root: Path, setting: str, given: bool | None, level: str | None) -> None:
    write(root, f"{THP}/shmem_enabled", setting)
    assert [finding.level for finding in check_shared_pages(root, given)] == [level] * (level is not None)


def test_zone_reclaim_matters_between_nodes(root: Path, tmp_path: Path) -> None:
    assert list(check_reclaim(root, read_topology(root))) == []
    write(root, "proc/sys/vm/zone_reclaim_mode", "1")
    assert [finding.level for finding in check_reclaim(root, read_topology(root))] == ["warning"]
    one = write_machine(tmp_path / "one", ONE_NODE)
    write(one, "proc/sys/vm/zone_reclaim_mode", "1")
    assert list(check_reclaim(one, read_topology(one))) == []


@pytest.mark.parametrize(
    ("total", "free", "level"),
    [(0, 0, "ok"), (8 << 20, 8 << 20, "ok"), ((8 << 20) + 1024, 8 << 20, "ok"), (8 << 20, 4 << 20, "warning")],
)
def test_swap_in_use_is_told_from_swap_that_is_there(root: Path, total: int, free: int, level: str) -> None:
    write(root, "proc/meminfo", f"MemTotal: 100 kB\nSwapTotal: {total} kB\nSwapFree: {free} kB\n")
    [(found, text)] = said(check_swap(root), "swap")
    assert found == level
    assert ("4.0 GiB" in text) == (level == "warning")


def test_hardware_threads_are_left_idle(root: Path) -> None:
    [(level, text)] = said(check_hardware_threads(read_topology(root)), "hardware threads")
    assert (level, text[:10]) == ("ok", "2 per core")
    assert "4 cores" in text


@pytest.mark.parametrize(
    ("governor", "driver", "preference", "level"),
    [
        ("performance", "acpi-cpufreq", None, "ok"),
        ("schedutil", "acpi-cpufreq", None, "note"),
        ("powersave", "acpi-cpufreq", None, "problem"),
        ("powersave", "intel_pstate", None, "ok"),
        ("powersave", "intel_pstate", "balance_performance", "ok"),
        ("powersave", "intel_pstate", "power", "warning"),
        ("powersave", "amd-pstate-epp", "balance_power", "warning"),
        ("performance", "amd-pstate-epp", "performance", "ok"),
    ],
)
def test_a_governor_means_what_its_driver_makes_of_it(
    root: Path, governor: str, driver: str, preference: str | None, level: str
) -> None:
    set_governor(root, governor, driver, preference)
    [(found, text)] = said(check_frequency(root), "CPU frequency")
    assert found == level
    assert (governor in text) or (preference or "") in text


def test_a_few_slow_cpus_are_found_among_fast_ones(root: Path) -> None:
    set_governor(root, "performance", "acpi-cpufreq")
    write(root, "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave")
    [(level, text)] = said(check_frequency(root), "CPU frequency")
    assert (level, "on 1 of 8 CPUs" in text, "1.0 of 3.7 GHz" in text) == ("problem", True, True)


def test_a_guest_has_no_frequency(root: Path) -> None:
    assert [level for level, _ in said(check_frequency(root), "CPU frequency")] == ["ok"]
