"""Every row of every worker's panels is the file's row, however the model is split, typed or stored."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from numoe.kernels.formats import BY_GGML_TYPE, NUMBERS
from numoe.kernels.groups import BLOCK
from numoe.model.plan import Range, Shard
from numoe.model.spec import ModelSpec, TensorInfo, TensorType
from numoe.protos.errors import ModelFileError
from numoe.worker import loader
from numoe.worker.loader import LoadedWeights, layer_rows, load_weights, row_bytes, weight_bytes
from tests.kernels.numeric import dequantised, packed
from tests.tiny_model import TinyShape, Weights, shape_of_type, split_paths, write_tiny_model
from tests.worker.shard_process import even_plan, read_spec

# Over 4 workers: 6 heads on 3 key-value heads, 6 panels of width, 10 of experts, 21 of the vocabulary, the last short.
UNEVEN = TinyShape(
    width=96, query_heads=6, kv_heads=3, expert_width=160, experts=3, vocabulary=331,
    types=(
        ("attn_q", TensorType.Q8_0), ("attn_v", TensorType.F16), ("ffn_gate_exps", TensorType.BF16),
        ("ffn_down_exps", TensorType.Q8_0), ("output", TensorType.Q8_0), ("token_embd", TensorType.Q8_0),
    ),
)  # fmt: skip
# Over 3 workers: 16 panels of width and of experts, 8 heads on 4 key-value heads.
WIDE = shape_of_type(
    TensorType.Q4_K,
    types=(
        ("attn_v", TensorType.Q6_K), ("attn_output", TensorType.Q3_K), ("ffn_gate_exps", TensorType.IQ4_XS),
        ("ffn_down_exps", TensorType.Q2_K), ("ffn_up_exps", TensorType.MXFP4), ("output", TensorType.Q5_K),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """A file and what it holds."""

    spec: ModelSpec
    weights: Weights


@pytest.fixture(
    scope="module", params=[(UNEVEN, 1), (UNEVEN, 3), (WIDE, 1)], ids=["one file", "three files", "blocks of 256"]
)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    path: Path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    shape, parts = request.param
    weights = write_tiny_model(path, shape, parts=parts)
    return Stored(read_spec(split_paths(path, parts)[0]), weights)


def at(address: int, size: int) -> NDArray[np.uint8]:
    """The bytes that lie at an address."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def file_rows(tensor: TensorInfo, weights: Weights) -> NDArray[np.uint8]:  # [E, rows, bytes of a row]
    """A matrix as it lies in the file, which is what was written there."""
    stored = np.fromfile(tensor.path, np.uint8, tensor.bytes, offset=tensor.offset)
    rows = stored.reshape(-1, row_bytes(tensor))
    np.testing.assert_array_equal(
        dequantised(BY_GGML_TYPE[tensor.type], rows).reshape(-1), weights[tensor.name].reshape(-1)
    )
    return rows.reshape(tensor.shape[0] if len(tensor.shape) == 3 else 1, -1, rows.shape[1])


def check_matrix(record: Any, tensor: TensorInfo, rows: Range, weights: Weights) -> None:
    """A MATRIX record's panels are those that packing the shard's rows of each expert gives."""
    format_ = BY_GGML_TYPE[tensor.type]
    expected = np.stack(
        [packed(format_, expert[rows.start : rows.stop]) for expert in file_rows(tensor, weights)]
    )  # [E, panels, units, panel unit bytes]
    assert record["rows"] == rows.size
    assert record["panels"] == expected.shape[1]
    assert record["blocks"] == tensor.shape[-1] // BLOCK
    assert record["expert_bytes"] == expected[0].nbytes
    assert record["tile"] == NUMBERS[format_.name]
    assert record["integer"] == format_.integer
    strides = int(record["expert_stride"]), int(record["panel_stride"]), 1
    shape = *expected.shape[:2], expected.shape[2] * expected.shape[3]
    assert record["panel_bytes"] == shape[2]
    size = sum(stride * (count - 1) for stride, count in zip(strides, shape, strict=True)) + 1
    lying = as_strided(at(int(record["address"]), size), shape, strides) if expected.size else np.zeros(shape, np.uint8)
    np.testing.assert_array_equal(lying, expected.reshape(shape))


def check_vector(address: int, tensor: TensorInfo | None, weights: Weights) -> None:
    if tensor is None:
        assert address == 0
    else:
        found = at(address, 4 * tensor.shape[0]).view(np.float32)
        np.testing.assert_array_equal(found, weights[tensor.name])


def load(spec: ModelSpec, shard: Shard, threads: int = 2) -> tuple[LoadedWeights, Any, list[int]]:
    told: list[int] = []
    loaded, vectors = load_weights(spec, shard, threads, told.append)
    return loaded, vectors, told


def shards_of(spec: ModelSpec, workers: int) -> Iterator[Shard]:
    yield from even_plan(spec, [(0,)] * workers).shards


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_every_row_is_the_files_row(stored: Stored, workers: int) -> None:
    spec, weights = stored.spec, stored.weights
    for shard in shards_of(spec, workers):
        loaded, vectors, _ = load(spec, shard)
        for record, tensors in zip(loaded.layers, spec.layer_tensors, strict=True):
            for field, tensor, rows in layer_rows(tensors, spec, shard):
                check_matrix(record[field], tensor, rows, weights)
            check_vector(int(record["attention_norm"]), tensors.attn_norm, weights)
            check_vector(int(record["feed_forward_norm"]), tensors.ffn_norm, weights)
            check_vector(int(record["q_norm"]), tensors.attn_q_norm, weights)
            check_vector(int(record["k_norm"]), tensors.attn_k_norm, weights)
            assert record["q_bias"] == record["k_bias"] == record["v_bias"] == 0
        check_matrix(loaded.head[0], spec.output, shard.vocabulary, weights)
        np.testing.assert_array_equal(loaded.output_norm, weights[spec.output_norm.name])
        embedding = loaded.embedding.reshape(shard.vocabulary.size, row_bytes(spec.token_embedding))
        [expected] = file_rows(spec.token_embedding, weights)
        np.testing.assert_array_equal(embedding, expected[shard.vocabulary.start : shard.vocabulary.stop])
        assert vectors


@pytest.mark.parametrize("workers", [2, 4])
def test_all_workers_together_hold_every_row_once(stored: Stored, workers: int) -> None:
    spec = stored.spec
    owned: dict[str, list[int]] = {}
    for shard in shards_of(spec, workers):
        for field, _, rows in layer_rows(spec.layer_tensors[0], spec, shard):
            owned.setdefault(field, []).extend(range(rows.start, rows.stop))
    for field, tensor in (("q", "attn_q"), ("output", "attn_output"), ("gate", "gate"), ("up", "up"), ("down", "down")):
        rows_of_tensor = getattr(spec.layer_tensors[0], tensor).shape[-2]
        assert sorted(owned[field]) == list(range(rows_of_tensor))
    for field in ("k", "v"):  # several workers may keep a shared head, but each must have an owner
        assert set(owned[field]) == set(range(spec.kv_heads * spec.head_size))


def test_rows_read_in_many_small_pieces_are_the_same(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    [shard] = shards_of(stored.spec, 1)
    whole, _, of_whole = load(stored.spec, shard)
    monkeypatch.setattr(loader, "READ_BYTES", 1)
    pieces, _, of_pieces = load(stored.spec, shard, threads=5)
    np.testing.assert_array_equal(pieces.memory, whole.memory)
    assert len(of_pieces) > 5 * len(of_whole)


def test_progress_adds_up_to_the_memory_taken(stored: Stored) -> None:
    for shard in shards_of(stored.spec, 3):
        loaded, _, told = load(stored.spec, shard)
        assert sum(told) == weight_bytes(stored.spec, shard) == loaded.memory.size


def test_a_worker_without_any_rows_loads_nothing_but_what_all_have(stored: Stored) -> None:
    spec, none = stored.spec, Range(0, 0)
    idle = Shard(0, 0, (0,), none, none, none, none, none)
    loaded, _, _ = load(spec, idle)
    for record, tensors in zip(loaded.layers, spec.layer_tensors, strict=True):
        for field, tensor, rows in layer_rows(tensors, spec, idle):
            check_matrix(record[field], tensor, rows, stored.weights)
        assert tensors.router is not None
        check_matrix(record["router"], tensors.router, Range(0, spec.experts), stored.weights)
    assert loaded.embedding.size == 0


def test_biases_are_the_own_heads_part(stored: Stored, tmp_path: Path) -> None:
    spec = stored.spec
    path, size = tmp_path / "biases", spec.query_heads * spec.head_size
    values = np.arange(2000, dtype=np.float32)
    values.tofile(path)

    def bias(first: int, count: int) -> TensorInfo:
        return TensorInfo("bias", TensorType.F32, (count,), path, 4 * first, 4 * count)

    kv = spec.kv_heads * spec.head_size
    layers = tuple(
        replace(tensors, attn_q_bias=bias(100, size), attn_k_bias=bias(700, kv), attn_v_bias=bias(1000, kv))
        for tensors in spec.layer_tensors
    )
    for shard in shards_of(spec, 4):
        loaded, vectors, _ = load(replace(spec, layer_tensors=layers), shard)
        for field, first, heads in (
            ("q_bias", 100, shard.heads), ("k_bias", 700, shard.kv_heads), ("v_bias", 1000, shard.kv_heads),
        ):  # fmt: skip
            found = at(int(loaded.layers[1][field]), 4 * heads.size * spec.head_size).view(np.float32)
            start = first + heads.start * spec.head_size
            np.testing.assert_array_equal(found, values[start : start + found.size])
        assert vectors


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
    [shard] = shards_of(spec, 1)
    with pytest.raises(
        ModelFileError, match=rf"own\.gguf has {size} bytes, expected at least \d+: it shrank"
    ) as caught:
        load(spec, shard)
    assert caught.value.reason == "truncated"


def test_a_file_that_vanished_is_an_error_of_the_system(own_file: tuple[Path, ModelSpec]) -> None:
    path, spec = own_file
    path.unlink()
    [shard] = shards_of(spec, 1)
    with pytest.raises(FileNotFoundError, match=r"own\.gguf"):
        load(spec, shard)


def test_no_descriptor_is_left_open(own_file: tuple[Path, ModelSpec]) -> None:
    path, spec = own_file
    [shard] = shards_of(spec, 1)
    before = os.listdir("/proc/self/fd")
    load(spec, shard)
    os.truncate(path, 1000)
    with pytest.raises(ModelFileError):
        load(spec, shard)
    assert os.listdir("/proc/self/fd") == before
