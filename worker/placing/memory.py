"""Memory of a worker: node-local, on huge pages where the kernel gives them."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.model.machine.memory_lock import lock_limit, refusal
from numoe.model.machine.memory_policy import DEFAULT_POLICY, MemoryPolicy, place_range
from numoe.protos.errors import SetupError
from numoe.protos.locality import PAGE
from numoe.protos.mapping import HUGE_PAGE, map_memory

_LIBC = ctypes.CDLL(None, use_errno=True)


def allocate(
    size: int, policy: MemoryPolicy = DEFAULT_POLICY
) -> NDArray[np.uint8]:  # [size] zeros, aligned to a huge page
    """Take anonymous memory, on huge pages if possible; the process's policy, or `policy`, puts it on a node.

    Raises:
        MemoryError: there is none.
        OSError: the policy is refused.
    """
    mapping = map_memory(-1, size + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of kernels that are built without huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapping, np.uint8)
    skip = -whole.ctypes.data % HUGE_PAGE
    if policy != DEFAULT_POLICY:
        place_range(whole.ctypes.data + skip, size, policy)
    return whole[skip : skip + size]


def give_back(part: NDArray[np.uint8]) -> int:
    """Return the whole pages of a part of `allocate`d memory to the system, and say how many bytes they are."""
    first = -(-part.ctypes.data // PAGE) * PAGE
    last = (part.ctypes.data + part.size) // PAGE * PAGE
    if last <= first:
        return 0
    _LIBC.munlock(ctypes.c_void_p(first), ctypes.c_size_t(last - first))  # of locked memory nothing is taken back
    _LIBC.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
    return last - first


def lock(worker: int, parts: Sequence[NDArray[Any]]) -> None:
    """Keep weights of a worker, which have been written, from being swapped out.

    Raises:
        SetupError: the hard limit is less than that.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    for part in parts:
        if part.nbytes and _LIBC.mlock(ctypes.c_void_p(part.ctypes.data), ctypes.c_size_t(part.nbytes)) != 0:
            why = os.strerror(ctypes.get_errno())
            raise SetupError(f"{refusal(worker, sum(one.nbytes for one in parts), lock_limit())} ({why})")


def map_arena(descriptor: int, size: int) -> NDArray[np.uint8]:  # [size]
    """Map the shared memory behind a memfd.

    Raises:
        MemoryError: there is no room for it.
    """
    return np.frombuffer(map_memory(descriptor, size, mmap.MAP_SHARED), np.uint8)
