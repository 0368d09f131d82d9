"""Memory asked of the kernel: a lack of it is a MemoryError that says how much was wanted, never an OSError."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

LACKING = (
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EFBIG,
    errno.EAGAIN,
)  # the third and fourth are limits

HUGE_PAGE = 2 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED, _PROT_NONE = 0x10, 0


def map_memory(descriptor: int, size: int, flags: int) -> mmap.mmap:
    """Map `size` bytes of a descriptor, or of nothing where it is -1, as mmap.mmap does. Raises MemoryError."""
    with _told(size):
        return mmap.mmap(descriptor, size, flags=flags)


def shared_memory(name: str, size: int) -> int:
    """Make a memfd of `size` bytes that no exec passes on; returns its descriptor. Raises MemoryError."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with _told(size):
            os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def map_aligned(descriptor: int, size: int, protection: int) -> ctypes.Array[ctypes.c_uint8]:
    """Map a memfd where a huge page can begin, until nobody uses what is returned any more. Raises MemoryError.

    mmap.mmap chooses the address itself, and keeps a descriptor for each mapping.
    """
    room = size + HUGE_PAGE
    with _told(size):
        reserved = _mapped(None, room, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        address = -(-reserved // HUGE_PAGE) * HUGE_PAGE
        try:
            _mapped(address, size, protection, mmap.MAP_SHARED | _MAP_FIXED, descriptor)
        except OSError:
            _LIBC.munmap(reserved, room)
            raise
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, _LIBC.munmap, reserved, room)
    return memory


def _mapped(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    found = _LIBC.mmap(address, size, protection, flags, descriptor, 0)
    if found == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found)


@contextmanager
def _told(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in LACKING:
            reason = "" if error.errno == errno.ENOMEM else f": {error.strerror}"
            raise MemoryError(f"no memory for {size / 2**30:.1f} GiB{reason}") from error
        raise
