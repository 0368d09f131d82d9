"""The page cache, and what is read past it, for tests that need a file cold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from numoe.worker.loading.page_cache import PageCache


def drop_from_cache(path: Path) -> None:
    """Let the kernel forget a file; skips the test where files lie in memory anyway, or cannot be read straight."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if PageCache(descriptor, os.fstat(descriptor).st_size).holds(0, 1):
            pytest.skip(f"the file system of {path} keeps files in memory")
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"{path} cannot be read straight from a disk: {error.strerror}")
    finally:
        os.close(descriptor)


def bytes_from_disk() -> int:
    """How many bytes this process has had read from disks so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    [found] = [line for line in lines if line.startswith("read_bytes:")]
    return int(found.split()[1])
