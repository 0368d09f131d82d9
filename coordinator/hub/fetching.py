"""Fetches files from a hub into the cache, from where they broke off, and compares their digests.

*Guarantees*: a file is seen in the cache only when all its bytes are there and have the digest that the hub lists. What
was fetched stays, whatever ends the process, and is not asked for again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Protocol

import structlog

from numoe.coordinator.hub.cache import ELSEWHERE
from numoe.coordinator.hub.choosing import HubFile
from numoe.coordinator.hub.client import HubRefused
from numoe.coordinator.hub.reading import Source, read_bytes
from numoe.coordinator.hub.waiting import Stop, call_all
from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import one_line

AT_ONCE = 4  # files; one connection seldom fills a line
READ_BYTES = 4 << 20  # of what is here already, when its digest is taken

_log = structlog.get_logger()


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Count:
    """Bytes of one file that are here and were looked at; written by one thread, read by another."""

    def __init__(self) -> None:
        self.bytes = 0


def fetch_files(source: Source, files: Sequence[HubFile], report: Callable[[int, int], None]) -> None:
    """Fetch `files`; `report` is called ten times a second with the bytes that are here and those in all.

    Raises SetupError, HubUnreachable, and whatever `report` raises; what was fetched is kept.
    """
    files = list({file.digest: file for file in files}.values())
    stop, counts = Stop(), [_Count() for _ in files]
    total = sum(file.bytes for file in files)
    works = [_work(source, file, count, stop) for file, count in zip(files, counts, strict=True)]
    try:
        call_all(works, AT_ONCE, lambda: report(sum(count.bytes for count in counts), total))
    finally:
        stop.set()


def _work(source: Source, file: HubFile, count: _Count, stop: Stop) -> Callable[[], None]:
    def work() -> None:
        try:
            _fetch(source, file, count, stop)
        except OSError as error:
            folder = source.cache.folder
            raise SetupError(f"{folder} cannot be written: {error.strerror}; mend that, or {ELSEWHERE}") from error

    return work


def _fetch(source: Source, file: HubFile, count: _Count, stop: Stop) -> None:
    """Fetch one file, if need be a second time: what was kept of it may have been spoilt."""
    blob, incomplete = source.cache.blob(file), source.cache.incomplete(file)
    incomplete.parent.mkdir(parents=True, exist_ok=True)
    for last in (False, True):
        with _open_alone(incomplete, file) as growing:
            kept = min(os.fstat(growing.fileno()).st_size, file.bytes)
            growing.truncate(kept)
            digest = _read_again(growing, file, kept, count, stop)
            _grow(source, file, growing, digest, count, stop)
            if stop.is_set():
                return
            if digest.hexdigest() == file.digest:
                os.fsync(growing.fileno())
                incomplete.replace(blob)
                return
            growing.truncate(0)
        if last or not kept:
            break
        _log.warning("fetched_again", file=one_line(file.path, 120), error="what was fetched before is spoilt")
    incomplete.unlink(missing_ok=True)
    found = f"the bytes of {one_line(file.path, 120)} have the digest {digest.hexdigest()}"
    raise HubRefused(f"{found}, expected {file.digest} as {source.client.endpoint} lists; nothing of it was kept")


def _open_alone(path: Path, file: HubFile) -> FileIO:
    """The file that grows, kept from other processes that fetch it. Raises SetupError if one does."""
    while True:
        growing = FileIO(path, "a+")
        try:
            fcntl.flock(growing, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(growing.fileno()).st_ino == path.stat().st_ino:
                return growing
        except BlockingIOError as error:
            growing.close()
            name = one_line(file.path, 120)
            raise SetupError(f"another process fetches {name} now; start again when it is done") from error
        except FileNotFoundError:  # it was completed by another process between opening and locking
            pass
        growing.close()


def _read_again(growing: FileIO, file: HubFile, kept: int, count: _Count, stop: Stop) -> Digest:
    """The digest of what is here."""
    if len(file.digest) == 64:
        digest: Digest = hashlib.sha256()
    else:  # as git has it
        digest = hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)
    growing.seek(0)
    count.bytes = 0
    while count.bytes < kept and not stop.is_set():
        data = growing.read(min(READ_BYTES, kept - count.bytes))
        if not data:
            break
        digest.update(data)
        count.bytes += len(data)
    return digest


def _grow(source: Source, file: HubFile, growing: FileIO, digest: Digest, count: _Count, stop: Stop) -> None:
    """Fetch the rest."""

    def take(piece: bytes) -> None:
        written = 0
        while written < len(piece):
            written += growing.write(piece[written:])
        digest.update(piece)
        count.bytes += len(piece)

    read_bytes(source, file, count.bytes, file.bytes, take, stop)
