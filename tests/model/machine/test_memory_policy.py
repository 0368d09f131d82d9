"""The kernel's memory calls are really made, and leave nothing behind."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import pytest

from numoe.model.machine.memory_policy import nodes_of_pages, try_policies
from numoe.model.machine.topology_reading import read_topology


def policies() -> set[str]:
    return {line.split()[1] for line in Path("/proc/self/numa_maps").read_text().splitlines()}


def test_a_page_is_bound_and_found_there_and_the_process_keeps_its_policy() -> None:
    before = policies()
    node = [node.id for node in read_topology().nodes if node.memory_bytes][-1]
    trial = try_policies(node)
    assert trial.bound_to == node
    if not trial.errors:
        assert trial.lay_on == node
    assert policies() == before


def test_a_node_that_is_not_there_is_the_kernel_s_error() -> None:
    trial = try_policies(1000)
    assert [call for call, _ in trial.errors][:2] == ["set_mempolicy", "mbind"]
    assert all("(E" in said for _, said in trial.errors)


def test_pages_that_were_never_touched_have_no_node() -> None:
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    place = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(place)
    memory[0] = 1
    try:
        nodes = nodes_of_pages([address, address + mmap.PAGESIZE])
    except OSError as error:
        pytest.skip(f"the kernel does not tell: {error}")
    finally:
        del place
        memory.close()
    assert nodes[0] in {node.id for node in read_topology().nodes}
    assert nodes[1] < 0
