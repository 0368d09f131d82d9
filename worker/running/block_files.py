"""Keys and values of full KV blocks in files, which outlive the worker: of this shard's heads.

    KV STORE / identity / part / key    a file for each block: its record (block_records.py), by the block's key in
                                        hexadecimal
    SLOT                                one file for many blocks and all workers, each of which writes and reads its own
                                        records, at places that it is told (protos/kv_files.py)

Workers that share a head write one file of the same bytes. A file is written beside its place, and whoever ordered it
moves it there once every worker has written its own.

*Guarantees*: the files of other models, formats or shares of heads are never read as these.
*Rejected*: one file for many blocks of the store, of which parts would have to be freed; writing from the step's
threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from numoe.protos.errors import SetupError
from numoe.protos.kv_files import file_name, written_name
from numoe.worker.running.block_records import BlockRecords

Blocks = Sequence[tuple[int, bytes]]  # ids, and the keys of what they hold
Places = Sequence[Mapping[str, int]]  # of each block, where the records of its parts begin


class BlockFiles:
    """The files of one worker in a store of blocks."""

    def __init__(self, store: Path, records: BlockRecords) -> None:
        """Raises SetupError: the folder cannot be used."""
        self._records = records
        self.folder = store / records.part.identity / records.part.name
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"--kv-store {store} cannot be used: {error.strerror}") from error

    def save(self, blocks: Blocks) -> str:
        """Write blocks beside the places of their keys; returns why that failed, "" if it did not."""
        try:
            for block, key in blocks:
                path = self.folder / written_name(key)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                    file.write(self._records.record(block, key))
        except OSError as error:
            return f"{self.folder} cannot be written: {error.strerror}"
        return ""

    def restore(self, blocks: Blocks) -> list[str]:
        """Read blocks into the cache; returns of each why that failed, "" if it did not."""
        return [self._restore(block, key) for block, key in blocks]

    def _restore(self, block: int, key: bytes) -> str:
        path, most = self.folder / file_name(key), self._records.part.record_bytes
        try:
            with path.open("rb") as file:
                size, data = os.fstat(file.fileno()).st_size, file.read(most)
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        if size > most:
            return f"{path} has {size} bytes, expected {most}"
        return f"{path} {wrong}" if (wrong := self._records.take(block, key, data)) else ""


def save_at(path: Path, records: BlockRecords, blocks: Blocks, places: Places) -> str:
    """Write this worker's records of blocks into the file of a slot; returns why that failed, "" if it did not."""
    try:
        with path.open("r+b") as file:
            for (block, key), at in zip(blocks, places, strict=True):
                file.seek(at[records.part.name])
                file.write(records.record(block, key))
    except OSError as error:
        return f"it cannot be written: {error.strerror}"
    return ""


def restore_from(path: Path, records: BlockRecords, blocks: Blocks, places: Places) -> list[str]:
    """Read this worker's records into the cache; returns of each block why that failed, "" if it did not."""
    wrong: list[str] = []
    try:
        with path.open("rb") as file:
            for (block, key), at in zip(blocks, places, strict=True):
                file.seek(at[records.part.name])
                wrong.append(records.take(block, key, file.read(records.part.record_bytes)))
    except OSError as error:
        wrong += [f"cannot be read: {error.strerror}"] * (len(blocks) - len(wrong))
    return wrong
