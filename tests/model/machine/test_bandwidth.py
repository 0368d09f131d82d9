"""Measured bandwidth is kept in a file, and read back only on the machine that it was measured on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from numoe.model.machine.bandwidth import bandwidth_file, load_bandwidth, save_bandwidth
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.machine.waits import TeamWait, Waits
from tests.machines import write_machine
from tests.model.doctor.findings import TWO_NODES
from tests.model.machine.measurements import measured


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    return read_topology(write_machine(tmp_path / "machine", TWO_NODES))


def test_a_measurement_is_read_back_as_it_was_kept(topology: Topology, tmp_path: Path) -> None:
    kept = measured(topology, (105.0, 50.0), (51.0, 104.0))
    path = tmp_path / "folder" / "bandwidth.toml"
    save_bandwidth(kept, path)
    assert load_bandwidth(path, topology) == kept
    waited = replace(kept, waits=Waits({"cache": 2.5e-8, "machine": 3e-7}, (TeamWait(2, 3.6e-7, 0.0),)))
    save_bandwidth(waited, path)
    assert load_bandwidth(path, topology) == waited
    assert kept.local == {0: 105e9, 1: 104e9}
    assert (kept.rate(1, 0), kept.rate(0, 2)) == (51e9, None)


def test_a_measurement_of_another_machine_does_not_count(topology: Topology, tmp_path: Path) -> None:
    path = tmp_path / "bandwidth.toml"
    save_bandwidth(measured(topology, (1.0,)), path)
    assert load_bandwidth(path, topology) is not None
    fewer = replace(topology, nodes=(replace(topology.nodes[0], cores=topology.nodes[0].cores[:1]), topology.nodes[1]))
    assert load_bandwidth(path, fewer) is None
    assert load_bandwidth(path, replace(topology, processor=replace(topology.processor, name="another"))) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[[",
        "read = 3",
        'processor = "x"\nmeasured_at = ""\ncores = [1]\nread = []',
        'processor = "x"\nmeasured_at = ""\ncores = []\nread = []\nwait = [1]',
    ],
)
def test_what_is_no_measurement_does_not_count(topology: Topology, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bandwidth.toml"
    assert load_bandwidth(path, topology) is None
    path.write_text(text)
    assert load_bandwidth(path, topology) is None


def test_it_is_kept_next_to_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert bandwidth_file() == tmp_path / "numoe" / "bandwidth.toml"
