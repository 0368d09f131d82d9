"""Parts of files come as they lie there, past the page cache where they are not in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.model.gguf.file_identity import identity_of
from numoe.protos.errors import ModelFileError
from numoe.worker.loading.direct_files import BLOCK_BYTES, DirectFiles, span_of
from numoe.worker.loading.files import Files
from numoe.worker.loading.page_cache import PageCache
from numoe.worker.placing.memory import allocate
from tests.worker.loading.page_cache_tools import bytes_from_disk, drop_from_cache

SIZE = 5 * BLOCK_BYTES + 123
REFUSES_STRAIGHT_READS = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.fixture
def data() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path, data: NDArray[np.uint8]) -> Path:
    (tmp_path / "file").write_bytes(data.tobytes())
    return tmp_path / "file"


@pytest.fixture
def files() -> Iterator[Files]:
    opened = Files(())
    yield opened
    opened.close()


def held(path: Path) -> bool:
    with path.open("rb") as file:
        return PageCache(file.fileno(), path.stat().st_size).holds(0, path.stat().st_size)


PARTS = [
    (0, SIZE),
    (0, 1),
    (SIZE - 1, 1),
    (BLOCK_BYTES - 1, 2),
    (BLOCK_BYTES, BLOCK_BYTES),
    (7, SIZE - 7),
    (9000, 9000),
]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("offset", "size"), PARTS)
def test_any_part_is_read_as_it_lies_there(
    path: Path, data: NDArray[np.uint8], files: Files, offset: int, size: int, cached: bool
) -> None:
    if not cached:
        drop_from_cache(path)
    found = DirectFiles(files).read(path, offset, size, allocate(span_of(size)))
    np.testing.assert_array_equal(found, data[offset : offset + size])


def test_what_the_cache_does_not_hold_comes_from_the_disk_and_leaves_nothing_there(path: Path, files: Files) -> None:
    drop_from_cache(path)
    before = bytes_from_disk()
    DirectFiles(files).read(path, 0, SIZE, allocate(span_of(SIZE)))
    assert bytes_from_disk() - before >= SIZE
    assert not held(path)


def test_what_the_cache_holds_is_not_read_from_the_disk(path: Path, files: Files) -> None:
    DirectFiles(files).read(path, 0, SIZE, allocate(span_of(SIZE)))  # the code comes from the disk as well
    path.read_bytes()
    assert held(path)
    before = bytes_from_disk()
    DirectFiles(files).read(path, 0, SIZE, allocate(span_of(SIZE)))
    assert bytes_from_disk() == before


def test_one_page_that_the_cache_lacks_is_seen(path: Path) -> None:
    drop_from_cache(path)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        os.pread(file.fileno(), 1, 2 * BLOCK_BYTES)
        cache = PageCache(file.fileno(), SIZE)
        assert cache.holds(2 * BLOCK_BYTES, 3 * BLOCK_BYTES)
        assert cache.holds(2 * BLOCK_BYTES + 5, 2 * BLOCK_BYTES + 6)
        assert not cache.holds(2 * BLOCK_BYTES - 1, 3 * BLOCK_BYTES)
        assert not cache.holds(2 * BLOCK_BYTES, 3 * BLOCK_BYTES + 1)
        assert not cache.holds(SIZE + BLOCK_BYTES, SIZE + 2 * BLOCK_BYTES)


@pytest.mark.parametrize("cached", [True, False])
def test_a_disk_that_wants_larger_blocks_is_read_through_the_cache(
    path: Path, data: NDArray[np.uint8], files: Files, cached: bool
) -> None:
    """Such a one answers as any disk does if the memory begins at an odd address."""
    if not cached:
        drop_from_cache(path)
    direct, into = DirectFiles(files), allocate(span_of(SIZE) + 1)[1:]
    for offset in (0, 5):
        found = direct.read(path, offset, SIZE - offset, into)
        np.testing.assert_array_equal(found, data[offset:])


def test_a_file_system_without_straight_reads_is_read_through_the_cache(files: Files) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        os.open(REFUSES_STRAIGHT_READS, os.O_RDONLY | os.O_DIRECT)
    found = DirectFiles(files).read(REFUSES_STRAIGHT_READS, 2, 5, allocate(span_of(5)))
    assert found.tobytes() == REFUSES_STRAIGHT_READS.read_bytes()[2:7]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("offset", [0, SIZE - 10, SIZE, SIZE + 5 * BLOCK_BYTES])
def test_a_file_that_ends_too_early_is_refused(path: Path, files: Files, offset: int, cached: bool) -> None:
    if not cached:
        drop_from_cache(path)
    with pytest.raises(ModelFileError, match=rf"has {SIZE} bytes, expected at least") as caught:
        DirectFiles(files).read(path, offset, SIZE + 1, allocate(span_of(SIZE + 1)))
    assert caught.value.reason == "truncated"


def test_an_empty_file_ends_too_early(tmp_path: Path, files: Files) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ModelFileError, match="has 0 bytes, expected at least"):
        DirectFiles(files).read(tmp_path / "empty", 0, 1, allocate(span_of(1)))


def test_another_file_is_refused_as_soon_as_it_is_opened(path: Path, tmp_path: Path) -> None:
    with path.open("rb") as file:
        planned = identity_of(path, file.fileno())
    (tmp_path / "other").write_bytes(path.read_bytes())
    os.replace(tmp_path / "other", path)
    files = Files([planned])
    try:
        with pytest.raises(ModelFileError, match="was changed or replaced"):
            DirectFiles(files).read(path, 0, 1, allocate(span_of(1)))
    finally:
        files.close()
