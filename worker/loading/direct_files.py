"""Reads parts of files straight from the disk, past the page cache, but for parts that lie in it.

Bytes that are kept in the worker's memory are not needed a second time in the cache, which would take them from the
same node, and leave no huge pages for weights: 243,000 faults were seen for 6,000. Straight reads take 0.03 s of a core
for a GB instead of 0.16 to 0.3. They want whole blocks, so more is read than was asked for, into memory that is the
caller's.

*Not guaranteed*: that the next start finds anything in the cache; who has a slow disk and much memory may read the
files once before (`cat DIR/* > /dev/null`).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Lock, Semaphore

import numpy as np
from numpy.typing import NDArray

from numoe.worker.loading.files import Files
from numoe.worker.loading.page_cache import PageCache

# Reads that a worker has a disk do at once: one is at work while another one's bytes are taken. More come out of order:
# 8.6 GB from a virtual disk, hashed and copied, took 5.0 and 6.2 s with two, 6.3 and 6.8 with four.
READS_AT_ONCE = 2
BLOCK_BYTES = 4096  # what offsets, lengths and addresses must be multiples of: disks want 512 or this


def span_of(size: int) -> int:
    """How much memory a part of `size` bytes takes at most, wherever it begins."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES + BLOCK_BYTES


class DirectFiles:
    """The files of a shard, read so; any thread may."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._caches: dict[Path, PageCache | None] = {}  # None: its file system knows no straight reads
        self._lock, self._disk = Lock(), Semaphore(READS_AT_ONCE)

    def read(
        self,
        path: Path,
        offset: int,
        size: int,
        into: NDArray[np.uint8],  # [span_of(size)] aligned to a block, written
    ) -> NDArray[np.uint8]:  # [size]
        """Read a part of a file; returns where in `into` it lies.

        Raises:
            ModelFileError: the file ends before, or is another one.
            OSError: it cannot be read.
        """
        skip = offset % BLOCK_BYTES
        got = 0
        if self._is_for_disk(path, offset, offset + size):
            span = -(-(skip + size) // BLOCK_BYTES) * BLOCK_BYTES
            got = self._read_blocks(path, offset - skip, into[:span])
        if got < skip + size:  # all of it, or what is behind the last whole block
            first = max(got, skip)
            self._files.read(path, offset - skip + first, [into[first : skip + size]])
        return into[skip : skip + size]

    def _is_for_disk(self, path: Path, start: int, stop: int) -> bool:
        with self._lock:
            if path not in self._caches:
                self._caches[path] = self._look_at(path)
            cache = self._caches[path]
        return cache is not None and not cache.holds(start, stop)

    def _look_at(self, path: Path) -> PageCache | None:
        descriptor = self._files.descriptor(path)
        try:
            self._files.descriptor(path, os.O_DIRECT)
            return PageCache(descriptor, os.fstat(descriptor).st_size)
        except (OSError, ValueError):  # the file system refuses, or the file is empty
            return None

    def _read_blocks(self, path: Path, offset: int, into: NDArray[np.uint8]) -> int:
        """Read whole blocks, fewer at the end of the file; 0 where the disk wants larger ones."""
        descriptor = self._files.descriptor(path, os.O_DIRECT)
        try:
            with self._disk:
                return os.preadv(descriptor, [into.data], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            with self._lock:
                self._caches[path] = None
            return 0
