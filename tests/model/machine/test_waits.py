"""Which cores and teams are tried for how they wait, of the machines that people have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.machine.waits import PAIRS, TeamWait, Waits, pairs_to_try, teams_to_try, waits_in
from tests.machines import CXL, EPYC_9755, SNC4_TWO_SOCKETS, TWO_XEON_6138, Machine, write_machine

EPYC = Machine(EPYC_9755, 2, 1, 32, 2, (192,))


@pytest.mark.parametrize(
    ("machine", "aparts"),
    [
        (TWO_XEON_6138, {"cache", "machine"}),
        (EPYC, {"cache", "package", "machine"}),
        (SNC4_TWO_SOCKETS, {"cache", "machine"}),
        (CXL, {"cache", "machine"}),
    ],
    ids=["two Xeons", "two EPYCs", "SNC-4", "CXL"],
)
def test_some_pairs_of_each_kind_that_there_is_are_tried(machine: Machine, aparts: set[str], tmp_path: Path) -> None:
    topology = read_topology(write_machine(tmp_path, machine))
    pairs = pairs_to_try(topology)
    assert Counter(apart for apart, _, _ in pairs) == dict.fromkeys(aparts, PAIRS)
    packages = {cpu: node.package for node in topology.nodes for cpu in node.cpus}
    caches = [set(cache.cpus) for cache in topology.caches if cache.level == 3]
    firsts = {core[0] for node in topology.nodes for core in node.cores}
    for apart, one, other in pairs:
        assert {one, other} <= firsts  # never two threads of a core
        assert (apart == "machine") == (packages[one] != packages[other])
        assert (apart == "cache") == any({one, other} <= cache for cache in caches)


def test_teams_double_up_to_all_cores_of_a_node(tmp_path: Path) -> None:
    teams = teams_to_try(read_topology(write_machine(tmp_path, TWO_XEON_6138)))
    assert [len(team) for team in teams] == [2, 4, 8, 16, 20]
    assert teams[-1] == list(range(20))


def test_one_core_waits_for_none() -> None:
    assert teams_to_try(Topology(())) == []
    assert pairs_to_try(Topology(())) == []


def test_a_damaged_file_is_not_taken_for_a_measurement() -> None:
    assert waits_in({}) is None
    for damaged in ({"pass": [{"apart": "far", "seconds": 1}]}, {"wait": [{"threads": 2}]}, {"wait": [3]}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            waits_in(damaged)


def test_lines_are_nothing_but_what_was_measured() -> None:
    lines = Waits({"cache": 2.5e-8}, (TeamWait(2, 3.6e-7, 0.0),)).lines()
    assert lines == [
        *("", "[[pass]]", 'apart = "cache"', "seconds = 2.500e-08"),
        *("", "[[wait]]", "threads = 2", "barrier = 3.600e-07", "claims = 0.000e+00"),
    ]
