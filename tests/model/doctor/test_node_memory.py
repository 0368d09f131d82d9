"""The memory of nodes: uneven memory, page cache, room for a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.model.doctor.node_memory import check_memory_of_nodes, check_page_cache, check_room
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.worker_memory import SERVICE_BYTES
from tests.machines import CXL, TWO_XEON_6138, Machine, restrict, write_machine, write_node_memory
from tests.model.doctor.findings import TWO_NODES, said
from tests.model.planning.examples import small_machine

Folder = Callable[[Machine], Path]
GIB = 1 << 30


def test_memory_should_be_even(described_machine: Folder) -> None:
    even = read_topology(described_machine(TWO_XEON_6138))
    assert said(check_memory_of_nodes(even), "memory of nodes") == [("ok", "even: 2 nodes of 192 GiB")]
    uneven = read_topology(described_machine(replace(TWO_NODES, memory_gib=(384, 192))))
    [finding] = check_memory_of_nodes(uneven)
    assert (finding.level, finding.found) == ("warning", "uneven: node 0 384 GiB, node 1 192 GiB")
    assert "models above 384 GiB fit only in unequal parts" in finding.cost


def test_what_the_kernel_keeps_for_itself_makes_nothing_uneven(recorded_machines: Path) -> None:
    found = said(check_memory_of_nodes(read_topology(recorded_machines / "two-sockets")), "memory of nodes")
    assert [level for level, _ in found] == ["ok"]


def test_a_socket_without_memory_is_found(recorded_machines: Path) -> None:
    found = said(check_memory_of_nodes(read_topology(recorded_machines / "memory-less")), "memory of nodes")
    assert found == [("warning", "node 2 has cores but no memory")]


def test_memory_that_a_cpuset_forbids_is_not_missing(tmp_path: Path) -> None:
    root = write_machine(tmp_path, TWO_NODES)
    restrict(root, "0-7", "0")
    assert said(check_memory_of_nodes(read_topology(root)), "memory of nodes") == []


def test_memory_without_cores_is_noted(described_machine: Folder) -> None:
    found = said(check_memory_of_nodes(read_topology(described_machine(CXL))), "memory of nodes")
    assert [level for level, _ in found] == ["note", "ok"]
    assert "node 2 has 256 GiB but no cores" in found[0][1]


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """Three of node 1's four GiB are file pages."""
    root = write_machine(tmp_path, TWO_NODES)
    write_node_memory(root, 1, 4 << 20, 1 << 19, 3 << 20)
    return root


@pytest.mark.parametrize(("needed", "level"), [({}, "note"), ({1: GIB // 4}, "note"), ({1: GIB}, "warning")])
def test_page_cache_on_one_node_is_worse_where_the_model_goes(
    crowded: Path, needed: dict[int, int], level: str
) -> None:
    [(found, text)] = said(check_page_cache(crowded, read_topology(crowded), needed), "page cache")
    assert found == level
    assert "75% of node 1" in text


def test_page_cache_all_over_is_as_it_should_be(crowded: Path) -> None:
    write_node_memory(crowded, 0, 4 << 20, 1 << 19, 3 << 20)
    found = said(check_page_cache(crowded, read_topology(crowded), {1: GIB}), "page cache")
    assert [level for level, _ in found] == ["ok"]


@pytest.mark.parametrize(
    ("needed", "level"),
    [(GIB // 4, "ok"), (2 * GIB, "note"), (int(3.45 * GIB), "warning"), (int(3.6 * GIB), "problem")],
)
def test_a_node_has_room_for_a_model_or_has_not(crowded: Path, needed: int, level: str) -> None:
    """Half a GiB is free, and three more are file pages."""
    [(found, text)] = said(check_room(read_topology(crowded), {1: needed}), "room for the model")
    assert found == level
    assert f"needs {needed / GIB:.1f} GiB" in text


def test_coordinator_and_ray_need_room_beside_the_workers() -> None:
    assert [level for level, _ in said(check_room(small_machine(1, 4 << 30), {0: 3 << 30}), "room for the model")] == [
        "ok"
    ]
    full = said(check_room(small_machine(1, 4 << 30), {0: (4 << 30) - 1}), "room for the model")
    needed = f"{(4 * GIB - 1 + SERVICE_BYTES) / GIB:.1f} GiB"
    assert ("problem", f"all nodes: {needed} with the coordinator and Ray, 4.0 available") in full
