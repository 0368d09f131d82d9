"""On which NUMA node the pages of a range of memory are, and how to move them: the kernel's move_pages.

Counts are exact: the kernel is asked about every 4 KiB page, also inside huge pages, and a range that begins or ends
within a page counts its own bytes of it only. Asking takes 0.1 s per GiB on one thread (80 ns a page on a Zen 5, huge
pages or not), and threads share it evenly, as the kernel only reads: a worker of 118 GB and 20 threads takes under 1 s.

Linux 6.1 to 6.5 do not tell of pages that NUMA balancing has unmapped for the moment: they count as on no node, or are
read first, which maps them again. It leaves memory alone whose process is bound to nodes (binding.py), so only those
that are not can meet this: of one all pages were found to be on none.

*Rejected*: one page per 2 MiB, which is right only where the kernel gave huge pages; /proc/self/numa_maps, which is
faster still, but counts whole mappings, and the kernel merges neighbouring ones.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.model.machine.memory_policy import MOVE_PAGES, system_call
from numoe.protos.locality import PAGE

_MPOL_MF_MOVE = 2
BATCH_PAGES = 1 << 16  # of one call: 256 MiB, and 0.8 MB of addresses and answers

REFUSED = (errno.EPERM, errno.ENOSYS)  # of containers: the kernel tells nothing, whatever is asked


@dataclass(frozen=True, slots=True)
class MemoryRange:
    """A range of this process's memory."""

    address: int
    bytes: int


def range_of(array: NDArray[Any]) -> MemoryRange:
    """The memory of a contiguous array."""
    return MemoryRange(array.ctypes.data, array.nbytes)


def count_bytes(ranges: Sequence[MemoryRange], threads: int = 1, *, reading: bool = False) -> dict[int, int]:
    """Count the bytes of the ranges by the node that they are on; what was never written is on none.

    `reading`: read pages that are on none, and ask about them again; to be used where the process is not bound.

    Raises:
        OSError: the kernel does not tell; its number is one of REFUSED in containers that forbid the call.
    """
    pieces = [piece for one in ranges for piece in _pieces(one)]
    counted: dict[int, int] = {}
    with ThreadPoolExecutor(threads, thread_name_prefix="pages") as pool:
        for part in pool.map(lambda piece: _count_piece(piece, reading), pieces):
            for node, count in part.items():
                counted[node] = counted.get(node, 0) + count
    return dict(sorted(counted.items()))


def move_to(ranges: Sequence[MemoryRange], node: int, threads: int = 1) -> None:
    """Move the pages of the ranges that are on other nodes to `node`; count again to see what it did.

    What the kernel cannot move stays: pages that other processes map too, any page while the node is full. *Rejected*:
    mbind, which also binds what comes later, and a process may be killed for a page that its full node has no room for.
    """
    pieces = [piece for one in ranges for piece in _pieces(one)]
    with ThreadPoolExecutor(threads, thread_name_prefix="pages") as pool:
        for _ in pool.map(lambda piece: _move_piece(piece, node), pieces):
            pass


def page_nodes(address: int, pages: int) -> NDArray[np.int32]:  # [pages]
    """The node of each page from `address` on; negative: nobody has written it yet."""
    return _move_pages(_addresses(address, pages), None)


def _addresses(first: int, pages: int) -> NDArray[np.uint64]:
    return np.uint64(first) + np.uint64(PAGE) * np.arange(pages, dtype=np.uint64)


def _move_pages(addresses: NDArray[np.uint64], nodes: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """Ask where pages are, or move each to its node of `nodes`; a status per page."""
    status = np.full(addresses.size, -1, np.int32)
    wanted = None if nodes is None else ctypes.c_void_p(nodes.ctypes.data)
    flags = 0 if nodes is None else _MPOL_MF_MOVE
    pointers = ctypes.c_void_p(addresses.ctypes.data), wanted, ctypes.c_void_p(status.ctypes.data)
    system_call(MOVE_PAGES, 0, addresses.size, *pointers, flags)
    return status


def _pieces(whole: MemoryRange) -> list[MemoryRange]:
    """The range, cut at page boundaries into what one call is asked about."""
    pieces, start, stop = [], whole.address, whole.address + whole.bytes
    while start < stop:
        end = min(stop, start // PAGE * PAGE + BATCH_PAGES * PAGE)
        pieces.append(MemoryRange(start, end - start))
        start = end
    return pieces


def _whole_pages(piece: MemoryRange) -> tuple[int, int]:
    """Bytes of its first page that come before it, and how many pages it touches."""
    before = piece.address % PAGE
    return before, -(-(before + piece.bytes) // PAGE)


def _count_piece(piece: MemoryRange, reading: bool) -> dict[int, int]:
    before, pages = _whole_pages(piece)
    first = piece.address - before
    nodes = page_nodes(first, pages)
    untold = np.flatnonzero(nodes < 0)
    if reading and untold.size:
        whole = np.ctypeslib.as_array((ctypes.c_uint8 * (pages * PAGE)).from_address(first))
        whole[untold * PAGE].sum()
        nodes[untold] = _move_pages(_addresses(first, pages)[untold], None)
    present = nodes[nodes >= 0]
    counted = {
        int(node): int(count) * PAGE for node, count in zip(*np.unique(present, return_counts=True), strict=True)
    }
    for page, outside in ((0, before), (-1, pages * PAGE - before - piece.bytes)):
        if nodes[page] >= 0:
            counted[int(nodes[page])] -= outside
    return counted


def _move_piece(piece: MemoryRange, node: int) -> None:
    before, pages = _whole_pages(piece)
    first = piece.address - before
    now = page_nodes(first, pages)
    elsewhere = _addresses(first, pages)[(now >= 0) & (now != node)]
    if elsewhere.size:
        with suppress(OSError):  # the node is not there, or not for this process
            _move_pages(elsewhere, np.full(elsewhere.size, node, np.int32))
