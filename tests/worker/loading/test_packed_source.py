"""A shard from a packed folder is, bit by bit, the shard from the model's file; one byte that is other is found."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.machine.model_file import read_spec as read_settled
from numoe.coordinator.settings import ModelSettings, ServeSettings
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.packed.manifest import HASHES_FILE, SUMMED, SUMS_FILE, sums_of
from numoe.model.packed.sections import sections_of
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.protos.errors import ModelFileError
from numoe.worker.loading import packed_source
from numoe.worker.loading.arrange import arrange
from numoe.worker.loading.arrangement import Arrangement
from numoe.worker.loading.direct_files import BLOCK_BYTES
from numoe.worker.loading.loader import LoadedWeights, load_weights
from numoe.worker.loading.packed_source import PackedSource
from numoe.worker.loading.page_cache import PageCache
from numoe.worker.loading.weight_memory import PrivateMemory
from tests.packed_model import copies, flip, pack_here
from tests.tiny_model import TinyShape, split_paths, write_tiny_model
from tests.worker.loading.page_cache_tools import bytes_from_disk, drop_from_cache
from tests.worker.loading.test_loader import UNEVEN, WIDE, load, plan_of
from tests.worker.running.shard_process import read_spec

DENSE = TinyShape("llama", experts=1, active_experts=1, tied=True, type=TensorType.Q8_0)


@dataclass(frozen=True, slots=True)
class Packed:
    """A model's file, and the folder it was packed into."""

    spec: ModelSpec
    folder: Path
    from_folder: ModelSpec


def read_packed(folder: Path) -> ModelSpec:
    return read_settled(None, ServeSettings(model=ModelSettings(packed=folder)))


@pytest.fixture(
    scope="module",
    params=[(UNEVEN, 1), (UNEVEN, 3), (WIDE, 1), (DENSE, 1)],
    ids=["one file", "three files", "blocks of 256", "dense and tied"],
)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder: Path = tmp_path_factory.mktemp("model")
    shape, parts = request.param
    write_tiny_model(folder / "tiny.gguf", shape, parts=parts)
    first = split_paths(folder / "tiny.gguf", parts)[0]
    pack_here(first, folder / "packed")
    return Packed(read_spec(first), folder / "packed", read_packed(folder / "packed"))


def load_packed(spec: ModelSpec, folder: Path, plan: ShardPlan, shard: Shard) -> tuple[LoadedWeights, list[int]]:
    told: list[int] = []
    place = PrivateMemory(plan, shard.worker)
    arranged = arrange(spec, plan, shard)
    return (
        load_weights(
            spec, shard, arranged, 2, told.append, place, lambda files: PackedSource(files, folder, spec.model)
        ),
        told,
    )


def places(arranged: Arrangement, memory: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The tables of a shard, as offsets in its memory; -1: not held."""
    tables = np.concatenate([arranged.experts.reshape(-1), arranged.others]).astype(np.int64)
    return np.where(tables == 0, -1, tables - memory.ctypes.data)


@pytest.mark.parametrize("whole", [(), (1,), (0, 1)], ids=["by row", "mixed", "whole experts"])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_memory_is_what_packing_the_file_gives(packed: Packed, workers: int, whole: tuple[int, ...]) -> None:
    if whole and not packed.spec.routed:
        pytest.skip("the model has no experts")
    plan = plan_of(packed.spec, workers, whole)
    for shard in plan.shards:
        expected, _ = load(packed.spec, plan, shard)
        found, told = load_packed(packed.from_folder, packed.folder, plan, shard)
        np.testing.assert_array_equal(found.memory, expected.memory)
        np.testing.assert_array_equal(places(found.arranged, found.memory), places(expected.arranged, expected.memory))
        np.testing.assert_array_equal(found.output_norm, expected.output_norm)
        assert len(found.vectors) == len(expected.vectors)
        for vector, other in zip(found.vectors, expected.vectors, strict=True):
            np.testing.assert_array_equal(vector, other)
        assert sum(told) == sum(piece.bytes for piece in expected.arranged.pieces)


@pytest.mark.parametrize("size", [1, 5000])
def test_slices_read_one_by_one_or_some_together_are_the_same(
    packed: Packed, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(packed.spec, 3)
    monkeypatch.setattr(packed_source, "READ_BYTES", size)
    for shard in plan.shards:
        expected, _ = load(packed.spec, plan, shard)
        found, _ = load_packed(packed.from_folder, packed.folder, plan, shard)
        np.testing.assert_array_equal(found.memory, expected.memory)


def test_a_cold_folder_is_read_once_and_stays_out_of_the_page_cache(packed: Packed) -> None:
    """So that a start takes what reading takes, and no memory of the worker's node."""
    plan = plan_of(packed.spec, 1)
    [shard] = plan.shards
    panels = sorted(packed.folder.glob("*.panels"))
    load_packed(packed.from_folder, packed.folder, plan, shard)  # the code comes from the disk as well
    for path in panels:
        drop_from_cache(path)
    before = bytes_from_disk()
    load_packed(packed.from_folder, packed.folder, plan, shard)
    reads = sum(section.hashes for section in sections_of(packed.from_folder))  # at most
    size = sum(path.stat().st_size for path in panels)
    assert size <= bytes_from_disk() - before <= size + 2 * BLOCK_BYTES * reads
    for path in panels:
        with path.open("rb") as file:
            assert not PageCache(file.fileno(), path.stat().st_size).holds(0, 1)


def refusals(spec: ModelSpec, folder: Path, plan: ShardPlan) -> list[str]:
    """What each worker says that refuses to load."""
    said = []
    for shard in plan.shards:
        try:
            load_packed(spec, folder, plan, shard)
        except ModelFileError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("workers", [1, 3])
def test_one_bit_anywhere_in_the_panels_is_found_and_named(packed: Packed, tmp_path: Path, workers: int) -> None:
    """In every section: its first byte, its last one, and one within; each by a worker that reads it."""
    random = np.random.default_rng(7)
    plan, [folder] = plan_of(packed.spec, workers), [next(copies(packed.folder, tmp_path / "copy"))]
    for section in sections_of(packed.spec):
        for place in (0, section.bytes - 1, int(random.integers(section.bytes))):
            flip(folder / section.file, section.offset + place)
            said = refusals(read_packed(folder), folder, plan)
            assert said
            for line in said:
                assert re.search(rf"{section.file}: bytes (\d+) to (\d+) \(.*{section.key[0][0]}.*BLAKE3 is", line)
                first, last = map(int, re.findall(r"bytes (\d+) to (\d+)", line)[0])
                assert first <= section.offset + place < last
            flip(folder / section.file, section.offset + place)
    assert not refusals(read_packed(folder), folder, plan)


def test_a_hash_that_is_another_is_found_by_who_reads_it(packed: Packed, tmp_path: Path) -> None:
    """Of the second section, a norm that all read, by somebody who writes SHA256SUMS anew, too."""
    folder = next(copies(packed.folder, tmp_path / "copy"))
    flip(folder / HASHES_FILE, 40)
    (folder / SUMS_FILE).write_bytes(sums_of({name: (folder / name).read_bytes() for name in SUMMED}))
    said = refusals(read_packed(folder), folder, plan_of(packed.spec, 2))
    assert len(said) == 2
    assert all(sections_of(packed.spec)[1].key[0][0] in line for line in said)


def replace_folder_file(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    os.replace(path.with_suffix(".new"), path)


def test_a_folder_that_was_replaced_since_it_was_planned_by_is_refused(packed: Packed, tmp_path: Path) -> None:
    """Even by the same bytes: nobody looked at what is there now."""
    folder = next(copies(packed.folder, tmp_path / "copy"))
    spec = read_packed(folder)
    replace_folder_file(folder / "layer-001.panels")
    [said] = refusals(spec, folder, plan_of(packed.spec, 1))
    assert "layer-001.panels was changed or replaced since the model was planned by it" in said


def test_a_file_that_shrank_while_it_was_served_is_refused(packed: Packed, tmp_path: Path) -> None:
    folder = next(copies(packed.folder, tmp_path / "copy"))
    spec = read_packed(folder)
    os.truncate(folder / "layer-000.panels", 100)
    [said] = refusals(spec, folder, plan_of(packed.spec, 1))
    assert "layer-000.panels was changed or replaced" in said


def test_no_descriptor_is_left_open(packed: Packed, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    folder: Path = next(copies(packed.folder, tmp_path / "copy"))
    plan: ShardPlan = plan_of(packed.spec, 1)
    assert not refusals(read_packed(folder), folder, plan)
    flip(folder / "layer-001.panels", 3000)
    assert refusals(read_packed(folder), folder, plan)
    assert os.listdir("/proc/self/fd") == before
