"""Measured bandwidth is judged: slow nodes, links between sockets, the speed of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from numoe.model.doctor.measured_bandwidth import check_load, check_local, check_remote, check_speed, check_waits
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.machine.waits import TeamWait, Waits
from tests.machines import write_machine
from tests.model.doctor.findings import TWO_NODES, said
from tests.model.machine.measurements import measured


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    return read_topology(write_machine(tmp_path / "machine", TWO_NODES))


def test_a_slow_node_holds_up_the_others(topology: Topology) -> None:
    subject = "bandwidth of nodes"
    assert said(check_local(measured(topology, (100.0, 50.0), (50.0, 90.0))), subject) == [
        ("ok", "90 to 100 GB/s each")
    ]
    [finding] = check_local(measured(topology, (100.0, 50.0), (50.0, 60.0)))
    assert (finding.level, finding.found) == ("warning", "node 1 reads its memory at 60% of the fastest node's speed")
    assert "25% of the bandwidth" in finding.cost
    assert said(check_local(measured(topology)), subject)[0][0] == "warning"


def test_what_threads_wait_is_said_and_marked_where_it_is_long() -> None:
    waits = Waits({"cache": 2.5e-8, "machine": 3e-7}, (TeamWait(2, 4e-7, 0.0), TeamWait(20, 1.2e-6, 4e-7)))
    assert list(check_waits(None)) == []
    [finding] = check_waits(waits)
    lines = "a line goes from core to core in 25 ns inside a cache, 300 ns between sockets"
    team = "20 threads wait 1.2 us for each other, 0.4 us more where they share work out"
    assert (finding.level, finding.found) == ("ok", f"{lines}; {team}")
    [finding] = check_waits(replace(waits, teams=(TeamWait(20, 5e-5, 0.0),)))
    assert (finding.level, finding.cost[:31]) == ("note", "some 0.60 ms a layer of each to")


def test_figures_of_a_busy_machine_are_marked() -> None:
    assert list(check_load(9.9, 40)) == []
    [finding] = check_load(10.1, 40)
    assert (finding.level, finding.found) == ("note", "measured while other programs ran (load 10.1 on 40 cores)")


@pytest.mark.parametrize(("remote", "level"), [(45.0, "ok"), (98.0, "note"), (20.0, "warning")])
def test_the_link_between_sockets_is_judged(topology: Topology, remote: float, level: str) -> None:
    found = said(
        check_remote(measured(topology, (100.0, remote), (remote, 100.0)), topology), "bandwidth between sockets"
    )
    assert [entry[0] for entry in found] == [level]
    assert f"{remote:.0f}% of local" in found[0][1]


def test_nodes_of_one_socket_have_no_link_to_judge(topology: Topology) -> None:
    nodes = tuple(replace(node, package=0) for node in topology.nodes)
    bandwidth = measured(topology, (100.0, 98.0), (98.0, 100.0))
    assert list(check_remote(bandwidth, replace(topology, nodes=nodes))) == []


def test_the_slowest_node_bounds_the_model_s_speed(topology: Topology) -> None:
    bandwidth = measured(topology, (100.0, 50.0), (50.0, 80.0))
    [(_, text)] = said(check_speed(bandwidth, {0: 10**10, 1: 10**10}), "speed of the model")
    assert "8.0 tokens/s" in text
    assert list(check_speed(bandwidth, {})) == []
    assert list(check_speed(measured(topology, (100.0,)), {0: 10**10, 1: 10**10})) == []
