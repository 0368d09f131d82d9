"""A file that is not as it was when it was opened is refused, and nothing stays open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from numoe.model.architectures.spec import ModelSpec
from numoe.protos.errors import ModelFileError
from tests.tiny_model import write_tiny_model
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
    size = int(path.stat().st_size * kept)
    os.truncate(path, size)
    plan = plan_of(spec, 1)
    [shard] = plan.shards
    with pytest.raises(
        ModelFileError, match=rf"own\.gguf has {size} bytes, expected at least \d+: it shrank"
    ) as caught:
        load(spec, plan, shard)
    assert caught.value.reason == "truncated"


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
