"""What the firmware made of the sockets: one node for all, one each, or several each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.model.doctor.sockets import check_sockets
from numoe.model.machine.topology_reading import read_topology
from tests.machines import EPYC_9755, NPS4_ONE_SOCKET, TWO_XEON_6138, XEON_6138, Chip, Machine, write, write_machine
from tests.model.doctor.findings import TWO_NODES, said

Folder = Callable[[Machine], Path]
E5_V4 = Chip("Intel(R) Xeon(R) CPU E5-2697A v4 @ 2.60GHz", "GenuineIntel", 6, 79, 32, 256, 40960)


@pytest.mark.parametrize(
    ("machine", "level", "part"),
    [
        (TWO_XEON_6138, "note", "SNC"),
        (replace(TWO_XEON_6138, chip=EPYC_9755), "note", "NPS2 or NPS4"),
        (NPS4_ONE_SOCKET, "ok", "4 on 1 socket: one worker each"),
        (TWO_NODES, "ok", "2 on 2 sockets: one worker each"),  # two cores a socket: nothing to divide
        (Machine(XEON_6138, 2, 0, 4, 2, (4,)), "problem", "node 0 spans several of the 2 sockets: the firmware"),
        (Machine(EPYC_9755, 2, 8, 1, 1, (4,)), "warning", "16 nodes with cores, but at most 8 workers"),
    ],
)
def test_what_the_firmware_made_of_the_sockets(
    described_machine: Folder, machine: Machine, level: str, part: str
) -> None:
    [(found, text)] = said(check_sockets(read_topology(described_machine(machine))), "NUMA nodes")
    assert found == level
    assert part in text


def test_a_guest_s_firmware_is_not_judged(tmp_path: Path) -> None:
    root = write_machine(tmp_path, replace(TWO_NODES, cores_per_node=20))
    assert [finding.level for finding in check_sockets(read_topology(root))] == ["note"]
    write(root, "proc/cpuinfo", (root / "proc/cpuinfo").read_text().replace("fpu", "fpu hypervisor"))
    assert [finding.level for finding in check_sockets(read_topology(root))] == ["ok"]
    hidden = write_machine(tmp_path / "hidden", Machine(XEON_6138, 2, 0, 4, 2, (4,)))
    write(hidden, "proc/cpuinfo", (root / "proc/cpuinfo").read_text())
    assert [finding.level for finding in check_sockets(read_topology(hidden))] == ["note"]


def test_older_xeons_are_told_of_the_snoop_mode(described_machine: Folder) -> None:
    both = read_topology(described_machine(replace(TWO_NODES, chip=E5_V4)))
    assert [level for level, _ in said(check_sockets(both), "snoop mode")] == ["note"]
    single = read_topology(described_machine(replace(TWO_NODES, chip=E5_V4, packages=1)))
    assert said(check_sockets(single), "snoop mode") == []
