"""The kernel's calls that say where memory lies: which of them this process may make, and on which node pages are."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

_MBIND, _SET_MEMPOLICY, _MOVE_PAGES = 237, 238, 279  # x86-64
_MPOL_BIND = 2
_MASK_WORDS = 16  # 1024 nodes


@dataclass(frozen=True, slots=True)
class PolicyTrial:
    """What came of really calling: errors by call, and where a page lay that was bound to a node."""

    errors: tuple[tuple[str, str], ...]  # (call, the kernel's word); empty: all calls work
    bound_to: int
    lay_on: int | None  # None: the kernel does not tell


def try_policies(node: int) -> PolicyTrial:
    """Bind a page to `node` and ask where it is, on a thread of its own: policies are a thread's and end with it."""
    trials: list[PolicyTrial] = []
    thread = threading.Thread(target=lambda: trials.append(_try(node)))
    thread.start()
    thread.join()
    return trials[0]


def nodes_of_pages(addresses: Sequence[int]) -> list[int] | None:
    """The node of each page of this process, negative where there is no page yet; None where the kernel refuses."""
    count = len(addresses)
    pages, status = (ctypes.c_void_p * count)(*addresses), (ctypes.c_int * count)()
    result = _libc().syscall(_MOVE_PAGES, 0, ctypes.c_ulong(count), pages, None, status, 0)
    return list(status) if result == 0 else None


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _try(node: int) -> PolicyTrial:
    libc, mask = _libc(), (ctypes.c_uint64 * _MASK_WORDS)()
    mask[node // 64] = 1 << (node % 64)
    bits = ctypes.c_ulong(_MASK_WORDS * 64 + 1)
    errors = []
    if libc.syscall(_SET_MEMPOLICY, _MPOL_BIND, mask, bits) != 0:
        errors.append(("set_mempolicy", _said()))
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.c_char.from_buffer(page)
    address = ctypes.addressof(place)
    if libc.syscall(_MBIND, ctypes.c_void_p(address), ctypes.c_ulong(mmap.PAGESIZE), _MPOL_BIND, mask, bits, 0) != 0:
        errors.append(("mbind", _said()))
    page[0] = 1  # written: there is no page before
    nodes = nodes_of_pages([address])
    if nodes is None:
        errors.append(("move_pages", _said()))
    del place
    page.close()
    return PolicyTrial(tuple(errors), node, nodes[0] if nodes and nodes[0] >= 0 else None)


def _said() -> str:
    number = ctypes.get_errno()
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
