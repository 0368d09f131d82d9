"""Memory asked of the kernel: a lack of it is a MemoryError that says how much was wanted, never an OSError."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

LACKING = (
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EFBIG,
    errno.EAGAIN,
)  # the third and fourth are limits


def map_memory(descriptor: int, size: int, flags: int) -> mmap.mmap:
    """Map `size` bytes of a descriptor, or of nothing where it is -1, as mmap.mmap does. Raises MemoryError."""
    with _told(size):
        return mmap.mmap(descriptor, size, flags=flags)


def shared_memory(name: str, size: int) -> int:
    """Make a memfd of `size` bytes that no exec passes on; returns its descriptor. Raises MemoryError."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with _told(size):
            os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _told(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in LACKING:
            reason = "" if error.errno == errno.ENOMEM else f": {error.strerror}"
            raise MemoryError(f"no memory for {size / 2**30:.1f} GiB{reason}") from error
        raise
