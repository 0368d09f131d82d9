"""Files of blocks: found when all workers have theirs, bounded, and left alone where they are not ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from numoe.coordinator.settings import EngineSettings
from numoe.coordinator.workers.kv_store import GIB, KvStore
from numoe.protos.errors import WorkerLost

BYTES = 100  # of a file
KEYS = [bytes([number]) * 32 for number in range(40)]
PATIENCE_SECONDS = 30.0


class Workers:
    """Two workers that write a file for each block; what they answer is set by tests."""

    def __init__(self, root: Path, identity: str = "ab" * 32) -> None:
        self.folders = [root / identity / f"layers 0-1 heads {worker}-{worker}" for worker in range(2)]
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
        self.refusals = ["", ""]
        self.lost = False
        self.unfit: set[bytes] = set()

    def ask(self, method: str, blocks: Sequence[tuple[int, bytes]]) -> list[Any]:
        if self.lost:
            raise WorkerLost("worker 1 died")
        if method == "restore_blocks":
            return [["cut off" if key in self.unfit and worker else "" for _, key in blocks] for worker in range(2)]
        for folder in self.folders:
            for _, key in blocks:
                (folder / f"{key.hex()}.written").write_bytes(bytes(BYTES))
        return self.refusals

    def store(self, blocks: float = 1000) -> KvStore:
        """Room for so many blocks."""
        root = self.folders[0].parents[1]
        store = KvStore(EngineSettings(kv_store=root, kv_store_gib=2 * BYTES * blocks / GIB), self.ask)
        store.open(dict.fromkeys(self.folders, BYTES))
        return store


def save(store: KvStore, first: int, end: int, versions: dict[int, int] | None = None) -> None:
    store.save(list(enumerate(KEYS))[first:end], (versions or {}).get if versions else lambda block: 0)  # type: ignore[arg-type]
    assert store._writing.finish(PATIENCE_SECONDS)


def files(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob("*"))


def test_what_all_workers_wrote_is_found_by_the_next_service(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    save(workers.store(), 0, 20)
    (workers.folders[1] / KEYS[3].hex()).unlink()
    (workers.folders[0] / f"{KEYS[30].hex()}.written").touch()
    store = workers.store()
    assert store.find(KEYS) == 3
    assert store.find(KEYS[4:]) == 16
    assert not list(tmp_path.rglob("*.written"))


def test_a_block_that_changed_while_it_was_written_is_not_kept(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    versions = dict.fromkeys(range(4), 1)

    class Changing(Workers):
        def ask(self, method: str, blocks: Sequence[tuple[int, bytes]]) -> list[Any]:
            versions[2] += 1
            return super().ask(method, blocks)

    store = Changing(tmp_path).store()
    save(store, 0, 4, versions)
    assert (store.find(KEYS), store.find(KEYS[3:])) == (2, 1)
    assert files(tmp_path) == 2 * 3
    assert workers.store().find(KEYS) == 2


@pytest.mark.parametrize("lost", [False, True])
def test_what_cannot_be_written_is_not_found_and_harms_nobody(tmp_path: Path, lost: bool) -> None:
    workers = Workers(tmp_path)
    workers.refusals, workers.lost = ["", "the disk is full"], lost
    store = workers.store()
    save(store, 0, 4)
    assert store.find(KEYS) == 0
    assert files(tmp_path) == 0
    workers.refusals, workers.lost = ["", ""], False
    save(store, 0, 4)
    assert store.find(KEYS) == 4


def test_what_does_not_fit_is_deleted_and_only_what_comes_before_it_is_there(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    store = workers.store()
    save(store, 0, 5)
    workers.unfit = {KEYS[2]}
    assert store.restore(list(enumerate(KEYS[:5]))) == 2
    assert (store.find(KEYS), store.find(KEYS[3:])) == (2, 2)
    assert files(tmp_path) == 2 * 4


def test_the_longest_unused_goes_first_of_other_models_before_ones_own_and_nothing_else(tmp_path: Path) -> None:
    other = Workers(tmp_path, identity="cd" * 32)
    save(other.store(), 0, 4)
    mine = tmp_path / "my" / "own" / "letter"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(bytes(5000))
    workers = Workers(tmp_path)
    store = workers.store(blocks=8)
    save(store, 0, 6)
    assert sum(files(folder) for folder in other.folders) == 4
    assert store.restore([(0, KEYS[0])]) == 1
    save(store, 10, 15)
    assert sum(files(folder) for folder in other.folders) == 0
    assert [store.find([key]) for key in KEYS[:6]] == [1, 0, 0, 0, 1, 1]
    assert mine.exists()
    again = workers.store(blocks=8)
    assert again.find(KEYS[10:]) == 5


def test_what_is_more_than_all_the_room_is_not_written(tmp_path: Path) -> None:
    store = Workers(tmp_path).store(blocks=3)
    save(store, 0, 4)
    assert files(tmp_path) == 0
    save(store, 0, 3)
    assert store.find(KEYS) == 3


def test_who_was_used_last_is_known_after_a_restart(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    save(workers.store(), 0, 4)
    for folder in workers.folders:
        for number, key in enumerate(KEYS[:4]):
            os.utime(folder / key.hex(), ns=(0, number))
    assert workers.store().restore([(0, KEYS[0])]) == 1
    store = workers.store(blocks=4)
    save(store, 4, 6)
    assert [store.find([key]) for key in KEYS[:6]] == [1, 0, 0, 1, 1, 1]


def test_what_is_to_be_forgotten_is_deleted_at_once(tmp_path: Path) -> None:
    store = Workers(tmp_path).store()
    save(store, 0, 4)
    for key in (KEYS[2], KEYS[30]):
        store.forget(key)
    assert (store.find(KEYS), files(tmp_path)) == (2, 2 * 3)
