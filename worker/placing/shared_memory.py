"""Memory of a worker that can outlive it: memfds, on huge pages where the kernel gives these to shared memory.

Guarantees: once it is protected nobody can change what is in it by accident, nor its size.
*Rejected*: F_SEAL_WRITE, which forbids to give back a part, as a worker does whose experts move away; a memfd for each
expert, which wastes up to a huge page each.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from numoe.model.machine.shared_pages import put_on_huge_pages
from numoe.protos.locality import PAGE
from numoe.protos.mapping import HUGE_PAGE, map_aligned, shared_memory

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14
_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_AT_ONCE = 64 << 20  # bytes that one thread asks for

Bytes = NDArray[np.uint8]


def allocate_shared(size: int, threads: int) -> tuple[Bytes, int]:  # [size]
    """Take shared memory on so many threads; returns it, aligned to a huge page, with its descriptor.

    The process's policy puts it on a node: now, not at first touch.

    Raises:
        MemoryError: there is none.
    """
    whole = _whole_pages(size)
    descriptor = shared_memory("numoe-weights", whole)
    memory = map_aligned(descriptor, whole, mmap.PROT_READ | mmap.PROT_WRITE)

    def take(first: int) -> None:
        put_on_huge_pages(memory, first, (min(whole, first + _AT_ONCE) - first) // HUGE_PAGE * HUGE_PAGE)

    _on_threads(threads, take, whole)
    return np.ctypeslib.as_array(memory)[:size], descriptor


def map_shared(descriptor: int, size: int, threads: int) -> Bytes:  # [size]
    """Map shared memory that was written before, all of its pages, to be read.

    Raises:
        MemoryError: it cannot be mapped.
    """
    memory = map_aligned(descriptor, _whole_pages(size), mmap.PROT_READ)

    def populate(first: int) -> None:  # else each page costs a fault when it is read first, and is on no node before
        part = min(len(memory), first + _AT_ONCE) - first
        _LIBC.madvise(ctypes.addressof(memory) + first, part, _POPULATE_READ)

    _on_threads(threads, populate, len(memory))
    return np.ctypeslib.as_array(memory)[:size]


def protect(memory: Bytes, descriptor: int) -> None:
    """Let memory that has been written be read only from now on, and have its size for good."""
    _LIBC.mprotect(memory.ctypes.data, _whole_pages(memory.size), mmap.PROT_READ)
    with suppress(OSError):  # of kernels that seal nothing
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def punch(descriptor: int, first: int, size: int) -> int:
    """Return the whole pages of a part of shared memory to the system, and say how many bytes they are."""
    start, stop = _whole_pages(first), (first + size) // PAGE * PAGE
    if stop <= start or _LIBC.fallocate(descriptor, _PUNCH_HOLE, start, stop - start) != 0:
        return 0
    return stop - start


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _on_threads(threads: int, do: Callable[[int], None], size: int) -> None:
    """Call it for every part of memory of that size."""
    with ThreadPoolExecutor(threads, thread_name_prefix="pages") as pool:
        for _ in pool.map(do, range(0, size, _AT_ONCE)):
            pass
