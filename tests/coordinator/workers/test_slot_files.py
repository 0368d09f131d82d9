"""Files of slots: whole or not there, refused where they are not ours, and never outside of their folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from numoe.coordinator.engine.kv.block_keys import BlockKeys
from numoe.coordinator.engine.kv.slot_orders import Found
from numoe.coordinator.engine.kv.slots import Left
from numoe.coordinator.workers.slot_files import SlotFiles
from numoe.protos.errors import InvalidRequest, SetupError, Unavailable
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.kv_files import SLOT_MAGIC
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor
from tests.coordinator.workers.slot_saving import FakeRecords

BLOCK, BLOCKS = LIMITS.block_positions, 20


def unchanged(block: int) -> int:
    return 0


def records_of(workers: int = 2, identity: str = "ab" * 32) -> FakeRecords:
    executor = FakeExecutor([1], LIMITS)
    cells = np.random.default_rng(1).integers(0, 1 << 63, (BLOCKS, BLOCK)).tolist()
    executor._cells = {(block, offset): cells[block][offset] for block in range(BLOCKS) for offset in range(BLOCK)}
    return FakeRecords(executor, workers, identity)


def found() -> Found:
    tokens, experts = np.arange(BLOCKS * BLOCK, dtype=np.int32), ExpertReduction(1, 0.25)
    keys = BlockKeys(experts, tokens, BLOCK).between(0, BLOCKS)
    return Found(Left(tokens, experts, keys), list(enumerate(keys)), [0] * BLOCKS)


def saved(folder: Path, name: str = "a.bin") -> Path:
    assert records_of().files(folder).save(name, found(), unchanged)[0] == BLOCKS
    return folder / name


def test_what_was_saved_is_read_into_other_blocks(tmp_path: Path) -> None:
    path, written = saved(tmp_path), records_of()
    records = FakeRecords(FakeExecutor([1], LIMITS))
    slot = records.files(tmp_path).open("a.bin")
    assert (slot.bytes, slot.left.experts, slot.left.keys) == (
        path.stat().st_size,
        ExpertReduction(1, 0.25),
        found().left.keys,
    )
    assert slot.left.tokens.tolist() == found().left.tokens.tolist()
    some = [(block + 30, key) for block, key in found().blocks[5:9]]
    assert slot.read(some) == 4
    assert [records.executor._cells[block, 3] for block, _ in some] == [
        written.executor._cells[block, 3] for block in range(5, 9)
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [path] == list(tmp_path.iterdir())


def test_a_slot_that_is_empty_has_a_file_of_nothing(tmp_path: Path) -> None:
    files = records_of().files(tmp_path)
    assert files.save("empty", Found(found().left.first(0), [], []), unchanged)[0] == 0
    slot = files.open("empty")
    assert (len(slot.left.tokens), slot.left.keys, slot.read([])) == (0, [], 0)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        "../a",
        "a\\b",
        "a..b",
        " a",
        "a ",
        "a.",
        "a:b",
        "a*",
        "a\n",
        "a\0",
        "é" * 128,
        "\ud800",
        ".numoe-slot-a",
    ],
)
def test_a_name_that_leads_elsewhere_or_is_none_is_refused(tmp_path: Path, name: str) -> None:
    files = records_of().files(tmp_path / "folder")
    for act in (lambda: files.check(name), lambda: files.open(name), lambda: files.save(name, found(), unchanged)):
        with pytest.raises(InvalidRequest, match="expected the name of a file") as refused:
            act()
        assert refused.value.field == "filename"
    assert [tmp_path / "folder"] == list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["a", "a.bin", ".a", "a b", "é", "x" * 255, "-", "日本"])
def test_other_names_are_taken(tmp_path: Path, name: str) -> None:
    assert saved(tmp_path, name).exists()
    assert records_of().files(tmp_path).open(name).left.keys


@pytest.mark.parametrize(
    ("workers", "identity", "why"),
    [(1, "ab" * 32, "was saved by 2 workers"), (2, "cd" * 32, "of another model, by other kernels")],
)
def test_what_is_of_another_model_or_number_of_workers_is_refused(
    tmp_path: Path, workers: int, identity: str, why: str
) -> None:
    saved(tmp_path)
    with pytest.raises(InvalidRequest, match=why):
        records_of(workers, identity).files(tmp_path).open("a.bin")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: b"x" + data[1:],
        lambda data: data[:-40] + (1 << 60).to_bytes(8, "little") + data[-32:],
        lambda data: data[:-60] + b"x" + data[-59:],
        lambda data: data[:2000] + data[2016:],
        lambda data: SLOT_MAGIC * 10,
    ],
    ids=["empty", "cut off", "short", "magic", "length", "description", "gap", "magic alone"],
)
def test_a_file_that_is_not_as_it_was_written_is_refused_whole(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = saved(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InvalidRequest, match="no whole file of a slot: save it anew"):
        records_of().files(tmp_path).open("a.bin")


def test_a_record_that_was_changed_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    slot = records_of().files(tmp_path).open("a.bin")
    with pytest.raises(InvalidRequest, match=r"a\.bin was changed or cut off: its digest differs: save it anew"):
        slot.read(found().blocks)


def test_a_file_that_is_missing_or_a_folder_is_told(tmp_path: Path) -> None:
    files = records_of().files(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidRequest, match="a is not in --slot-save-path: save a slot"):
        files.open("a")
    with pytest.raises(InvalidRequest, match="folder cannot be read"):
        files.open("folder")
    with pytest.raises(Unavailable, match="folder cannot be written"):
        files.save("folder", found(), unchanged)
    assert [tmp_path / "folder"] == list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before, records = path.read_bytes(), records_of()
    records.refusal = "it cannot be written: the disk is full"
    with pytest.raises(Unavailable, match="the disk is full"):
        records.files(tmp_path).save("a.bin", found(), unchanged)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


def test_what_a_service_left_half_written_is_deleted_by_the_next(tmp_path: Path) -> None:
    path = saved(tmp_path)
    for name in (".numoe-slot-00ff.written", "mine.written"):
        (tmp_path / name).touch()
    records_of().files(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "mine.written"])


def test_a_folder_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"--slot-save-path .*/file/folder cannot be used"):
        SlotFiles(tmp_path / "file" / "folder", BLOCK, lambda *arguments: []).open_folder(records_of().parts)


def test_a_description_with_tokens_that_are_none_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = path.read_bytes()
    length = int.from_bytes(data[-40:-32], "little")
    described = msgspec.json.decode(data[-40 - length : -40])
    described["tokens"][0] = 1 << 40
    text = msgspec.json.encode(described)
    path.write_bytes(data[: -40 - length] + text + len(text).to_bytes(8, "little") + blake3(text).digest())
    with pytest.raises(InvalidRequest, match="no whole file"):
        records_of().files(tmp_path).open("a.bin")
