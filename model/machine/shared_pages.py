"""Huge pages for shared memory: asking for them, and whether asking helps here.

Where .../transparent_hugepage/shmem_enabled says advise or more, the first touch of a huge page's range gives it. Where
it says never, as it does unless somebody changed it, Linux 6.1 and later give huge pages still to who asks for a range
that has a page already (MADV_COLLAPSE), on the node of that page.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from pathlib import Path

from numoe.model.machine.linux_files import chosen, read_text
from numoe.protos.mapping import HUGE_PAGE, map_aligned, shared_memory

_ADVICE_HUGE, _ADVICE_COLLAPSE = 14, 25
GIVEN_AT_TOUCH = ("always", "within_size", "advise", "force")  # settings
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def put_on_huge_pages(memory: ctypes.Array[ctypes.c_uint8], first: int, size: int) -> bool:
    """Take a part of shared memory, from a huge page's beginning on, in huge pages; whether the kernel gave them all.

    The policy of the thread that calls says on which node.
    """
    address = ctypes.addressof(memory) + first
    _LIBC.madvise(address, size, _ADVICE_HUGE)
    for offset in range(first, first + size, HUGE_PAGE):
        memory[offset] = 0
    return bool(_LIBC.madvise(address, size, _ADVICE_COLLAPSE) == 0)


def shared_setting(root: Path = Path("/")) -> str:
    """What shmem_enabled says; unknown: the kernel has no such setting."""
    return chosen(read_text(root / "sys/kernel/mm/transparent_hugepage/shmem_enabled"))


def shared_huge_pages() -> bool:
    """Whether shared memory that asks for huge pages gets them here, by a trial where no setting promises it."""
    if shared_setting() in GIVEN_AT_TOUCH:
        return True
    with suppress(OSError, MemoryError):
        descriptor = shared_memory("numoe-trial", HUGE_PAGE)
        try:
            return put_on_huge_pages(map_aligned(descriptor, HUGE_PAGE, mmap.PROT_READ | mmap.PROT_WRITE), 0, HUGE_PAGE)
        finally:
            os.close(descriptor)
    return False
