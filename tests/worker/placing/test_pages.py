"""Pages are counted by node to the byte, as the kernel has them, and moved where there is another node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from numoe.model.machine.memory_policy import bind_memory, system_call
from numoe.model.machine.topology_reading import read_topology
from numoe.protos.locality import PAGE
from numoe.protos.mapping import HUGE_PAGE
from numoe.worker.placing.memory import allocate
from numoe.worker.placing.pages import BATCH_PAGES, REFUSED, MemoryRange, count_bytes, move_to, page_nodes, range_of

ROOT = Path(__file__).parents[3]
NODES = [node.id for node in read_topology().nodes if node.memory_bytes]
one_node = pytest.mark.skipif(len(NODES) > 1, reason="pages may be on any of several nodes here")


@pytest.fixture(autouse=True)
def the_kernel_tells() -> None:
    try:
        page_nodes(allocate(PAGE).ctypes.data, 1)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        pytest.skip("the kernel does not tell where pages are")


@one_node
def test_what_was_never_written_is_on_no_node() -> None:
    memory = allocate(4 * HUGE_PAGE)
    assert count_bytes([range_of(memory)]) == count_bytes([range_of(memory)], reading=True) == {}
    memory[0] = memory[3 * HUGE_PAGE] = 1
    assert (page_nodes(memory.ctypes.data + 2 * HUGE_PAGE, 3) < 0).all()
    assert count_bytes([range_of(memory)], threads=2)[NODES[0]] < memory.size


@one_node
@pytest.mark.parametrize(
    ("start", "size"),
    [(0, PAGE), (0, 3 * PAGE), (1, 10), (100, PAGE), (PAGE - 1, 2), (17, 5 * PAGE), (PAGE, HUGE_PAGE), (0, 0)],
)
def test_a_range_counts_its_own_bytes_only(start: int, size: int) -> None:
    memory = allocate(2 * HUGE_PAGE)
    memory[:] = 1
    counted = count_bytes([MemoryRange(memory.ctypes.data + start, size)])
    assert counted == ({NODES[0]: size} if size else {})


@one_node
def test_ranges_of_many_calls_add_up() -> None:
    memory = allocate((BATCH_PAGES + 3) * PAGE + 5)
    memory[:] = 1
    parts = np.array_split(memory, 7)
    assert count_bytes([range_of(memory)], threads=2) == {NODES[0]: memory.size}
    assert count_bytes([range_of(part) for part in parts], threads=3) == {NODES[0]: memory.size}


@one_node
def test_every_page_of_a_huge_page_is_counted() -> None:
    memory = allocate(2 * HUGE_PAGE)
    memory[0] = memory[HUGE_PAGE] = 1
    touched = 2 if _huge_bytes(memory.ctypes.data) == 0 else 2 * HUGE_PAGE // PAGE
    assert count_bytes([range_of(memory)]) == {NODES[0]: touched * PAGE}


def _huge_bytes(address: int) -> int:
    """Bytes on huge pages, in the mapping that holds the address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0]:
            first, last = (int(bound, 16) for bound in fields[0].split("-"))
            inside = first <= address < last
        elif inside and fields[0] == "AnonHugePages:":
            return 1024 * int(fields[1])
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_pages_that_cannot_be_moved_stay() -> None:
    memory = allocate(HUGE_PAGE)
    memory[:] = 1
    before = count_bytes([range_of(memory)])
    move_to([range_of(memory)], max(NODES) + 1)
    assert count_bytes([range_of(memory)]) == before


@pytest.fixture
def bound() -> Iterator[None]:
    """Memory that NUMA balancing leaves alone, as a worker's: some kernels do not tell of pages that it unmapped."""
    bind_memory(NODES[0])
    yield
    system_call(238, 0, None, 0)  # set_mempolicy, MPOL_DEFAULT


@pytest.mark.skipif(len(NODES) < 2, reason="there is one node only")
@pytest.mark.numa
def test_pages_are_moved_and_their_bytes_stay_as_they_are(bound: None) -> None:
    memory = allocate(3 * HUGE_PAGE)
    memory[:] = values = np.random.default_rng(0).integers(0, 256, memory.size, np.uint8)
    for node in (NODES[1], NODES[0]):
        move_to([range_of(memory)], node, threads=2)
        assert count_bytes([range_of(memory)]) == {node: memory.size}
    np.testing.assert_array_equal(memory, values)


def test_a_kernel_that_refuses_to_tell_is_an_error_of_its_own() -> None:
    program = "from numoe.worker.placing.pages import page_nodes; page_nodes(0, 1)"
    command = [sys.executable, "-m", "tests.worker.placing.refusing", "279", sys.executable, "-c", program]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"[Errno {REFUSED[0]}] {os.strerror(REFUSED[0])}" in process.stderr
