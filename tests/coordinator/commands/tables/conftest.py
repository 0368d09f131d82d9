"""The machine that several tables are tried with."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology


@pytest.fixture
def two_sockets(recorded_machines: Path) -> Topology:
    return read_topology(recorded_machines / "two-sockets")
