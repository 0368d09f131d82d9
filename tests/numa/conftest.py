"""These tests run where there are two NUMA nodes: `make test-numa` starts a guest that has them."""

from __future__ import annotations

import pytest

from numoe.model.machine.topology import Node
from numoe.model.machine.topology_reading import read_topology


@pytest.fixture(scope="session", autouse=True)
def nodes() -> tuple[Node, Node]:
    """Two nodes with memory and CPUs."""
    found = [node for node in read_topology().nodes if node.memory_bytes and node.cores]
    if len(found) < 2:
        pytest.skip("this machine has one NUMA node; `make test-numa` runs these tests in a guest of two")
    return found[0], found[1]
