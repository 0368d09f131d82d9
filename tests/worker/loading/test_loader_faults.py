"""A file that is not as it was when it was opened is refused, and nothing stays open."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.model.architectures.spec import ModelSpec
from numoe.protos.errors import ModelFileError
from numoe.worker.loading.arrange import arrange
from numoe.worker.loading.loader import load_weights
from numoe.worker.loading.weight_memory import PrivateMemory
from tests.tiny_model import split_paths, write_tiny_model
from tests.worker.loading.test_loader import UNEVEN, load, plan_of
from tests.worker.running.shard_process import read_spec


@pytest.fixture
def own_file(tmp_path: Path) -> tuple[Path, ModelSpec]:
    """A model that a test may damage."""
    path = tmp_path / "own.gguf"
    write_tiny_model(path, UNEVEN)
    return path, read_spec(path)


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.0])
def test_a_file_that_shrank_is_refused(own_file: tuple[Path, ModelSpec], kept: float) -> None:
    path, spec = own_file
    spec = replace(spec, files=())  # nothing is known of how it was
    size = int(path.stat().st_size * kept)
    os.truncate(path, size)
    plan = plan_of(spec, 1)
    [shard] = plan.shards
    with pytest.raises(
        ModelFileError, match=rf"own\.gguf has {size} bytes, expected at least \d+: it shrank"
    ) as caught:
        load(spec, plan, shard)
    assert caught.value.reason == "truncated"


def replace_by_another(path: Path) -> None:
    """As a download does it: by a file of the same size."""
    other = path.with_suffix(".new")
    write_tiny_model(other, UNEVEN, seed=1)
    assert other.stat().st_size == path.stat().st_size
    os.replace(other, path)


def write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


@pytest.mark.parametrize(
    "change", [replace_by_another, write_into, lambda path: os.truncate(path, path.stat().st_size // 2)],
    ids=["replaced", "written to", "truncated"],
)  # fmt: skip
@pytest.mark.parametrize("parts", [1, 3])
def test_a_file_that_changed_since_it_was_planned_by_is_refused_by_name(
    tmp_path: Path, parts: int, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "own.gguf"
    write_tiny_model(path, UNEVEN, parts=parts)
    first, *_, last = split_paths(path, parts) if parts > 1 else (path, path)
    spec = read_spec(first)
    if parts > 1 and change is replace_by_another:
        copy = shutil.copy(last, tmp_path / "copy")
        os.replace(copy, last)
    else:
        change(last)
    plan = plan_of(spec, 1)
    [shard] = plan.shards
    with pytest.raises(ModelFileError, match=rf"{re.escape(str(last))} was changed or replaced") as caught:
        load(spec, plan, shard)
    assert caught.value.reason == "changed"


def test_a_file_that_is_written_to_while_it_is_read_is_refused(own_file: tuple[Path, ModelSpec]) -> None:
    path, spec = own_file
    plan = plan_of(spec, 1)
    [shard] = plan.shards
    changed = False

    def change(size: int) -> None:
        nonlocal changed
        if not changed:
            changed = True
            write_into(path)

    with pytest.raises(ModelFileError, match="was changed or replaced"):
        load_weights(spec, shard, arrange(spec, plan, shard), 1, change, PrivateMemory(plan, shard.worker))
    assert changed


def test_a_spec_with_its_files_can_be_sent_to_a_worker(own_file: tuple[Path, ModelSpec]) -> None:
    path, spec = own_file
    assert [file.path for file in spec.files] == [path]
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_file_that_vanished_is_an_error_of_the_system(own_file: tuple[Path, ModelSpec]) -> None:
    path, spec = own_file
    path.unlink()
    plan = plan_of(spec, 1)
    [shard] = plan.shards
    with pytest.raises(FileNotFoundError, match=r"own\.gguf"):
        load(spec, plan, shard)


def test_no_descriptor_is_left_open(own_file: tuple[Path, ModelSpec]) -> None:
    path, spec = own_file
    plan = plan_of(spec, 1)
    [shard] = plan.shards
    before = os.listdir("/proc/self/fd")
    load(spec, plan, shard)
    os.truncate(path, 1000)
    with pytest.raises(ModelFileError):
        load(spec, plan, shard)
    assert os.listdir("/proc/self/fd") == before
