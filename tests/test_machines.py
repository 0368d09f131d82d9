"""The files of described machines are those that a kernel wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.machines import Chip, Machine, write_machine

EMULATED = Chip("Haswell", "GenuineIntel", 6, 60, 32, 4096, 16384)
NUMBERS = re.compile(r" *\d+( kB)?$", re.MULTILINE)
# What the recorded trees have and no described machine: byte counts. Their lines are compared, the numbers not.
COUNTS = {"meminfo"}
SETTINGS = {"enabled", "numa_balancing"}  # differ by choice
# The recorded machine was emulated: each hardware thread had first-level caches of its own, real cores share them.
EMULATION = re.compile(r"index[01]/shared_cpu_list$")


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("two-sockets", Machine(EMULATED, 2, 1, 4, 2, (1,), numbering="siblings adjacent")),
        ("four-nodes", Machine(EMULATED, 4, 1, 2, 1, (1,))),
        ("one-node", Machine(EMULATED, 1, 1, 2, 1, (1,))),
    ],
)
def test_a_described_machine_has_the_files_of_a_recorded_one(
    recorded_machines: Path, tmp_path: Path, name: str, machine: Machine
) -> None:
    recorded, described = recorded_machines / name, write_machine(tmp_path, machine)
    for path in sorted(recorded.rglob("*")):
        if path.is_dir() or path.name in SETTINGS or path == recorded / "proc/meminfo":
            continue
        if EMULATION.search(path.as_posix()):
            continue
        found, expected = (described / path.relative_to(recorded)).read_text(), path.read_text()
        if path.name in COUNTS:
            found, expected = NUMBERS.sub("", found), NUMBERS.sub("", expected)
        assert found == expected, path


def test_a_node_s_numbers_stand_in_the_kernel_s_columns(recorded_machines: Path, tmp_path: Path) -> None:
    """A value of the recorded width ends in the same column."""
    name = "sys/devices/system/node/node1/meminfo"
    recorded = (recorded_machines / "two-sockets" / name).read_text()
    described = (write_machine(tmp_path, Machine(EMULATED, 2, 1, 4, 2, (1,))) / name).read_text()
    assert [len(line) for line in described.splitlines()] == [len(line) for line in recorded.splitlines()]


def test_memory_without_cpus_is_written_as_recorded(recorded_machines: Path, tmp_path: Path) -> None:
    recorded = recorded_machines / "cpu-less/sys/devices/system/node"
    machine = Machine(EMULATED, 2, 1, 1, 1, (1,), memory_only_gib=(1,))
    described = write_machine(tmp_path, machine) / "sys/devices/system/node"
    for name in ("online", "has_cpu", "has_memory", "has_normal_memory", "possible", "node2/cpulist"):
        assert (described / name).read_text() == (recorded / name).read_text()
