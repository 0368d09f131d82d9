"""These tests run where there are two NUMA nodes: `make test-numa` starts a guest that has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.machine.topology import Node
from numoe.model.machine.topology_reading import read_topology
from tests.tiny_model import TinyShape, write_tiny_model


@pytest.fixture(scope="session", autouse=True)
def nodes() -> tuple[Node, Node]:
    """Two nodes with memory and CPUs."""
    found = [node for node in read_topology().nodes if node.memory_bytes and node.cores]
    if len(found) < 2:
        pytest.skip("this machine has one NUMA node; `make test-numa` runs these tests in a guest of two")
    return found[0], found[1]


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A model that all tests load."""
    path: Path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, TinyShape(layers=3))
    return model_spec(open_gguf(path))
