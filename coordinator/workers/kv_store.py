"""KV blocks in files: which there are, which are written and read, and which go where there is no more room.

Workers write and read the files, each those of its own heads (worker/running/block_files.py); here is known of which
blocks all of them have one. A thread of its own has blocks written while steps run: a full block is written by no step
until its name is forgotten, and one that was taken for something else meanwhile is not kept. Blocks are read by the
engine's thread, between two steps.

*Guarantees*: a block is in its place with all of its files or is not found; the folder holds at most what it may, older
files of other models included, once something was written; nothing that fails ends a request or holds up a step.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import structlog

from numoe.coordinator.afterwards import Afterwards
from numoe.coordinator.cluster.ray_calls import inside_ray
from numoe.coordinator.settings import EngineSettings
from numoe.protos.errors import SetupError, WorkerLost
from numoe.protos.kv_files import WRITTEN_SUFFIX, file_name, written_name

GIB = 1 << 30
SAVED_AT_ONCE = 16  # blocks: some 100 MB of a model of 30B, so that few are taken for something else meanwhile
FINISH_SECONDS = 5.0  # for what is being written when the service ends

Blocks = Sequence[tuple[int, bytes]]  # by block ids, their keys
Ask = Callable[[str, Blocks], list[Any]]

_log = structlog.get_logger()


class KvStore:
    """Implements BlockStore (engine/executor.py) over the files of one group's workers."""

    def __init__(self, settings: EngineSettings, ask: Ask) -> None:
        """`ask`: has every worker run a method with these blocks; may raise WorkerLost."""
        assert settings.kv_store is not None
        self._root, self._most_bytes = settings.kv_store.absolute(), int(settings.kv_store_gib * GIB)
        self._ask = ask
        self._lock = Lock()
        self._kept: OrderedDict[bytes, None] = OrderedDict()  # keys, the longest unused first
        self._folders: tuple[Path, ...] = ()  # of the workers
        self._block_bytes = 1  # of all files of a block
        self._foreign: list[Path] = []  # files of other models or shares, the newest first
        self._foreign_bytes = 0
        self._writing, self._closed = Afterwards("numoe-kv-store"), Lock()

    def open(self, folders: Mapping[Path, int]) -> None:
        """The workers keep their files in these folders, each of so many bytes. Raises SetupError."""
        try:
            self._open(tuple(folders), sum(folders.values()))
        except OSError as error:
            raise SetupError(f"--kv-store {self._root} cannot be read: {error.strerror}") from error

    def _open(self, folders: tuple[Path, ...], block_bytes: int) -> None:
        names = [{entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)} for folder in folders]
        whole = set(names[0]).intersection(*names[1:])
        kept = sorted((name for name in whole if _is_key(name)), key=names[0].__getitem__)
        own = {folder / name for folder in folders for name in kept}
        others = [path for path in _files(self._root) if path not in own]
        for path in [path for path in others if path.suffix == WRITTEN_SUFFIX]:
            path.unlink(missing_ok=True)  # a service ended while it was written
            others.remove(path)
        with self._lock:
            self._folders, self._block_bytes = folders, block_bytes
            self._kept = OrderedDict.fromkeys(map(bytes.fromhex, kept))
            self._foreign = sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)
            self._foreign_bytes = sum(path.stat().st_size for path in others)
        _log.info("kv_store_opened", blocks=len(kept), bytes=len(kept) * block_bytes, other_bytes=self._foreign_bytes)

    def close(self) -> None:
        """Write what is ordered, for some seconds at most, and nothing more. Harmless when repeated."""
        if not self._closed.acquire(blocking=False):
            return
        self._writing.close(FINISH_SECONDS)

    def find(self, keys: Sequence[bytes]) -> int:
        with self._lock:
            return next((place for place, key in enumerate(keys) if key not in self._kept), len(keys))

    def save(self, blocks: Blocks, unchanged: Callable[[int], int]) -> None:
        with self._lock:
            new = [(block, key, unchanged(block)) for block, key in blocks if key not in self._kept]
        for first in range(0, len(new), SAVED_AT_ONCE):
            self._writing.do(partial(self._save, new[first : first + SAVED_AT_ONCE], unchanged))

    def _save(self, blocks: Sequence[tuple[int, bytes, int]], unchanged: Callable[[int], int]) -> None:
        with self._lock:
            new = [one for one in blocks if unchanged(one[0]) == one[2] and one[1] not in self._kept]
        if not new:
            return
        try:
            with inside_ray():  # where what it returns, or raises, is dropped, too
                self._write(new, unchanged)
        except (OSError, WorkerLost) as error:
            _log.warning("kv_blocks_not_saved", blocks=len(new), error=str(error))
            for _, key, _ in new:
                self._delete(written_name(key))

    def _write(self, blocks: Sequence[tuple[int, bytes, int]], unchanged: Callable[[int], int]) -> None:
        """Raises OSError, WorkerLost."""
        self._make_room(len(blocks))
        if failed := next(filter(None, self._ask("save_blocks", [(block, key) for block, key, _ in blocks])), ""):
            raise OSError(failed)
        for block, key, was in blocks:
            if unchanged(block) != was:
                self._delete(written_name(key))
                continue
            for folder in self._folders:
                (folder / written_name(key)).rename(folder / file_name(key))
            with self._lock:
                self._kept[key] = None

    def _make_room(self, blocks: int) -> None:
        """Delete what was used longest ago, of other models first, so that so many more fit. Raises OSError."""
        room = self._most_bytes - blocks * self._block_bytes
        if room < 0:
            holds = f"--kv-store-gib holds {self._most_bytes // self._block_bytes} blocks"
            raise OSError(f"{holds}, fewer than the {blocks} that are written at once")
        while self._foreign and self._foreign_bytes + len(self._kept) * self._block_bytes > room:
            path = self._foreign.pop()
            self._foreign_bytes -= path.stat().st_size if path.exists() else 0
            path.unlink(missing_ok=True)
        while len(self._kept) * self._block_bytes > room:
            with self._lock:
                oldest = next(iter(self._kept), b"")
            self._drop(oldest)

    def restore(self, blocks: Blocks) -> int:
        answers = self._ask("restore_blocks", blocks)
        for place, (_, key) in enumerate(blocks):
            if failed := next(filter(None, (answer[place] for answer in answers)), ""):
                _log.warning("kv_block_unfit", error=failed)
                self._drop(key)
                return place
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
            for folder in self._folders:
                with suppress(OSError):  # somebody else deleted it meanwhile
                    os.utime(folder / file_name(key))
        return len(blocks)

    def forget(self, key: bytes) -> None:
        self._drop(key)

    def _drop(self, key: bytes) -> None:
        with self._lock:
            self._kept.pop(key, None)
        self._delete(file_name(key))

    def _delete(self, name: str) -> None:
        for folder in self._folders:
            with suppress(OSError):  # a folder that cannot be written any more is told of where that is tried
                (folder / name).unlink(missing_ok=True)


def _files(root: Path) -> Iterator[Path]:
    """All files of blocks below this folder, of whichever model, and nothing else that lies there."""
    return (path for path in root.glob("*/*/*") if _is_key(path.parents[1].name) and _is_key(path.stem))


def _is_key(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")
