"""Shared memory is taken whole, on huge pages where there are some, and mapped whole again."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from numoe.model.machine.shared_pages import shared_huge_pages
from numoe.protos.errors import SetupError
from numoe.protos.locality import PAGE
from numoe.protos.mapping import HUGE_PAGE
from numoe.worker.placing.pages import count_bytes, range_of
from numoe.worker.placing.shared_memory import allocate_shared, map_shared, protect, punch


def field_of(address: int, name: str) -> int:
    """Bytes that smaps tells of the mapping that begins at an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = line.startswith(f"{address:x}-")
        elif inside and words[0] == f"{name}:":
            return 1024 * int(words[1])
    raise AssertionError(f"nothing is mapped at {address:#x}")


@pytest.mark.parametrize("size", [1, PAGE, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 17, (64 << 20) + 5])
def test_what_is_written_is_found_where_it_is_mapped_again(size: int) -> None:
    memory, descriptor = allocate_shared(size, 2)
    try:
        assert memory.size == size
        assert memory.ctypes.data % HUGE_PAGE == 0
        assert not memory.any()
        memory[:] = np.arange(size) % 251
        protect(memory, descriptor)
        again = map_shared(descriptor, size, 2)
        np.testing.assert_array_equal(again, memory)
        assert again.ctypes.data % HUGE_PAGE == 0
    finally:
        os.close(descriptor)


def test_pages_are_huge_where_the_kernel_gives_such_to_shared_memory() -> None:
    if not shared_huge_pages():
        pytest.skip("the kernel gives none")
    size = 4 * HUGE_PAGE + PAGE
    memory, descriptor = allocate_shared(size, 1)
    again = map_shared(descriptor, size, 1)
    os.close(descriptor)
    for one in (memory, again):
        assert field_of(one.ctypes.data, "ShmemPmdMapped") == 4 * HUGE_PAGE


def test_every_page_of_what_is_mapped_again_is_on_a_node() -> None:
    size = 3 * HUGE_PAGE + 5 * PAGE
    memory, descriptor = allocate_shared(size, 1)
    memory[:] = 1
    again = map_shared(descriptor, size, 1)
    os.close(descriptor)
    try:
        assert sum(count_bytes([range_of(again)]).values()) == size
    except OSError as error:
        pytest.skip(f"the kernel does not tell: {error}")


def test_mappings_end_with_their_arrays_and_hold_no_descriptor() -> None:
    memory, descriptor = allocate_shared(HUGE_PAGE, 1)
    before = len(os.listdir("/proc/self/fd"))
    parts = [map_shared(descriptor, HUGE_PAGE, 1)[100:200] for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) == before
    mapped = Path("/proc/self/maps").read_text().count("numoe-weights")
    del parts
    gc.collect()
    assert Path("/proc/self/maps").read_text().count("numoe-weights") == mapped - 3
    os.close(descriptor)
    del memory


def test_a_part_is_given_back_in_whole_pages() -> None:
    memory, descriptor = allocate_shared(HUGE_PAGE, 1)
    memory[:] = 1
    protect(memory, descriptor)
    blocks = os.fstat(descriptor).st_blocks
    assert punch(descriptor, 100, PAGE) == 0
    assert punch(descriptor, 100, 3 * PAGE) == 2 * PAGE
    assert 512 * (blocks - os.fstat(descriptor).st_blocks) == 2 * PAGE
    assert memory[PAGE - 1] == memory[3 * PAGE] == 1
    os.close(descriptor)


def test_a_lack_of_memory_is_told() -> None:
    with pytest.raises(MemoryError, match="no memory for"):
        allocate_shared(1 << 62, 1)
    with pytest.raises((MemoryError, SetupError, OSError)):
        map_shared(-1, PAGE, 1)
