"""Which bytes of a file the kernel has in its page cache."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

from numoe.protos.locality import PAGE

_LIBC = ctypes.CDLL(None, use_errno=True)


class PageCache:
    """Looks at one file, which is mapped for it, and never touched there."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._size = size
        self._mapping = np.frombuffer(mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED), np.uint8)

    def holds(self, start: int, stop: int) -> bool:
        """Whether all bytes of a range are there, of pages that may be told of.

        The kernel tells only who owns the file or may write it; to others it says that all are there.
        """
        first = start // PAGE * PAGE
        size = min(stop, self._size) - first
        if size <= 0:
            return False
        pages = np.zeros(-(-size // PAGE), np.uint8)
        place = ctypes.c_void_p(self._mapping.ctypes.data + first)
        if _LIBC.mincore(place, ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)) != 0:
            return False
        return bool((pages & 1).all())
