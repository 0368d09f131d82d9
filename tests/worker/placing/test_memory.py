"""Memory is zeros, on whole huge pages where the kernel has them, and an arena is shared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from numoe.protos.mapping import HUGE_PAGE
from numoe.worker.placing.memory import allocate, map_arena
from tests.worker.placing.refusing import MADVISE

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("size", [1, 4096, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 17])
def test_memory_is_zeros_aligned_to_a_huge_page(size: int) -> None:
    memory = allocate(size)
    assert memory.size == size
    assert memory.ctypes.data % HUGE_PAGE == 0
    assert not memory.any()
    memory[:] = 255
    assert memory.all()


def flags_of(address: int) -> list[str]:
    """The kernel's flags of the mapping that holds the address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition("-")
        if rest and all(letter in "0123456789abcdef" for letter in first):
            inside = int(first, 16) <= address < int(rest.split()[0], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_the_kernel_knows_that_huge_pages_are_wanted() -> None:
    memory = allocate(4 * HUGE_PAGE)
    assert "hg" in flags_of(memory.ctypes.data)


def test_memory_comes_where_the_kernel_has_no_huge_pages() -> None:
    """Kernels built without them refuse to be told that they are wanted."""
    program = "from numoe.worker.placing.memory import allocate; print(allocate(5).tolist())"
    command = [sys.executable, "-m", "tests.worker.placing.refusing", str(MADVISE), sys.executable, "-c", program]
    process = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert process.stdout == "[0, 0, 0, 0, 0]\n", process.stderr


def test_no_memory_is_a_memory_error() -> None:
    """It is nothing that the operator can mend in the file system, as other errors of the system are."""
    with pytest.raises(MemoryError, match=r"^no memory for 65536\.0 GiB$"):
        allocate(1 << 46)


def test_memory_is_given_back_with_its_array() -> None:
    memory = allocate(HUGE_PAGE)
    address = memory.ctypes.data
    assert "hg" in flags_of(address)
    del memory
    with pytest.raises(AssertionError, match="nothing is mapped"):
        flags_of(address)


@contextmanager
def memfd(size: int) -> Iterator[int]:
    descriptor = os.memfd_create("arena")
    os.ftruncate(descriptor, size)
    yield descriptor
    os.close(descriptor)


def test_two_mappings_of_an_arena_see_each_others_writes_after_the_descriptor_is_closed() -> None:
    with memfd(8192) as descriptor:
        first, second = map_arena(descriptor, 8192), map_arena(descriptor, 8192)
    first[5000] = 7
    assert second[5000] == 7
    assert np.count_nonzero(second) == 1
