"""Files of slots over fake workers, whose records of a block are the hashes of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from numoe.coordinator.workers.slot_files import SlotFiles
from numoe.protos.kv_files import BlockPart
from tests.coordinator.engine.fake_executor import FakeExecutor

DIGEST_BYTES = 16
Executor = TypeVar("Executor", bound=FakeExecutor)


class FakeRecords:
    """Workers that write and read records as real ones do, each its own part of a block."""

    def __init__(self, executor: FakeExecutor, workers: int = 2, identity: str = "ab" * 32) -> None:
        self.executor, self._size = executor, executor.limits.block_positions
        record = DIGEST_BYTES + 32 + 8 * self._size
        self.parts = [BlockPart(identity, f"heads {worker}", record) for worker in range(workers)]
        self.read: list[tuple[int, int]] = []  # how many blocks, after how many steps
        self.refusal = ""

    def files(self, folder: Path) -> SlotFiles:
        """Files in this folder, ready."""
        files = SlotFiles(folder, self._size, self.ask)
        files.open_folder(self.parts)
        return files

    def ask(
        self, method: str, blocks: Sequence[tuple[int, bytes]], path: Path, places: Sequence[Mapping[str, int]]
    ) -> list[Any]:
        if method == "save_slot_blocks":
            return [self.refusal or self._save(part, blocks, path, places) for part in self.parts]
        self.read.append((len(blocks), len(self.executor.steps)))
        return [self._restore(part, blocks, path, places) for part in self.parts]

    def _save(self, part: BlockPart, blocks: Any, path: Path, places: Any) -> str:
        with path.open("r+b") as file:
            for (block, key), at in zip(blocks, places, strict=True):
                cells = [self.executor._cells[block, offset] for offset in range(self._size)]
                told = part.name.encode()[:1] + key[1:] + np.array(cells, np.uint64).tobytes()
                file.seek(at[part.name])
                file.write(blake2b(told, digest_size=DIGEST_BYTES).digest() + told)
        return ""

    def _restore(self, part: BlockPart, blocks: Any, path: Path, places: Any) -> list[str]:
        answers = []
        with path.open("rb") as file:
            for (block, _), at in zip(blocks, places, strict=True):
                file.seek(at[part.name])
                record = file.read(part.record_bytes)
                digest, told = record[:DIGEST_BYTES], record[DIGEST_BYTES:]
                fits = blake2b(told, digest_size=DIGEST_BYTES).digest() == digest
                for offset, cell in enumerate(np.frombuffer(told[32:], np.uint64).tolist() if fits else ()):
                    self.executor._cells[block, offset] = cell
                answers.append("" if fits else "was changed or cut off: its digest differs")
        return answers


def saving(executor: Executor, folder: Path) -> Executor:
    """The same executor, which has files of slots in this folder."""
    executor.slot_files = FakeRecords(executor).files(folder)
    return executor
