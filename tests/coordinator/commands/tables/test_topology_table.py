"""What `numoe topology` puts on the screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.coordinator.commands.tables.topology import describe_topology
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from tests.coordinator.commands.tables.screen import shown
from tests.machines import (
    SNC4_ONE_SOCKET,
    TWO_EPYC_9755_NPS4,
    TWO_XEON_6138_IN_TURN,
    XEON_6138,
    Machine,
    write_machine,
)


def test_the_machine_is_drawn_package_by_package(two_sockets: Topology) -> None:
    text = shown(describe_topology(two_sockets), width=100)
    for part in ("package 0", "package 1", "node 0", "node 1", "4 cores, 8 CPUs", "[8-9] [10-11] [12-13] [14-15]"):
        assert part in text
    assert "last-level cache 16.0 MiB" in text
    assert "21" in text.split("distances")[1]


@pytest.mark.parametrize(("name", "part"), [("memory-less", "no usable memory"), ("cpu-less", "no usable CPUs")])
def test_a_node_that_lacks_something_says_so(recorded_machines: Path, name: str, part: str) -> None:
    text = shown(describe_topology(read_topology(recorded_machines / name)))
    assert "node 2" in text
    assert part in text


def test_one_node_needs_no_distances(recorded_machines: Path) -> None:
    assert "distances" not in shown(describe_topology(read_topology(recorded_machines / "one-node")))


def test_what_may_not_be_used_is_named(two_sockets: Topology) -> None:
    text = shown(describe_topology(replace(two_sockets, forbidden_cpus=(4, 5, 6), forbidden_nodes=(1,))))
    assert "CPUs 4-6 exist but this process may not use them" in text
    assert "Memory of node 1 exists but this process may not use it" in text


@pytest.mark.parametrize("width", [80, 100])
def test_eight_nodes_stand_two_by_two(described_machine: Callable[[Machine], Path], width: int) -> None:
    text = shown(describe_topology(read_topology(described_machine(TWO_EPYC_9755_NPS4))), width)
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= width
    titles = [line for line in lines if "─ node " in line]
    assert [[part for part in "01234567" if f"node {part}" in title] for title in titles] == [
        ["0", "1"],
        ["2", "3"],
        ["4", "5"],
        ["6", "7"],
    ]
    assert "0-31 + 256-287" in text
    assert "last-level cache 32.0 MiB x 4" in text
    assert lines[0] == "AMD EPYC 9755 128-Core Processor"


def test_many_cores_are_said_in_runs(described_machine: Callable[[Machine], Path]) -> None:
    text = shown(describe_topology(read_topology(described_machine(TWO_XEON_6138_IN_TURN))), 80)
    assert "1-39 by 2 + 41-79 by 2" in text


def test_a_cache_of_several_nodes_says_which(described_machine: Callable[[Machine], Path]) -> None:
    text = shown(describe_topology(read_topology(described_machine(SNC4_ONE_SOCKET))), 80)
    assert "shared with nodes 0,2-3" in text
    assert text.count("shared with") == 4


def test_packages_of_one_node_share_a_frame(tmp_path: Path) -> None:
    root = write_machine(tmp_path, Machine(XEON_6138, 2, 0, 4, 1, (4,)))
    assert "packages 0-1" in shown(describe_topology(read_topology(root)), 80)
