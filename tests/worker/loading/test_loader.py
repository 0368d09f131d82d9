"""Every row of every worker's panels is the file's row, however the model is split, typed or stored."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from numoe.kernels.weights.formats import BLOCK, BY_GGML_TYPE, NUMBERS, ROWS
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo, TensorType
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Range, Shard, ShardPlan
from numoe.protos.locality import PAGE
from numoe.worker.loading import arrange as arranging
from numoe.worker.loading.arrange import arrange, layer_rows
from numoe.worker.loading.arrangement import panel_bytes
from numoe.worker.loading.loader import LoadedWeights, load_weights
from numoe.worker.loading.weight_memory import PrivateMemory
from tests.kernels.numeric import dequantised, packed
from tests.tiny_model import TinyShape, Weights, shape_of_type, split_paths, write_tiny_model
from tests.worker.running.shard_process import even_plan, read_spec

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
    """A model of uneven parts, in one file or three."""
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
    rows = stored.reshape(-1, tensor.row_bytes)
    np.testing.assert_array_equal(
        dequantised(BY_GGML_TYPE[tensor.type], rows).reshape(-1), weights[tensor.name].reshape(-1)
    )
    return rows.reshape(tensor.shape[0] if len(tensor.shape) == 3 else 1, -1, rows.shape[1])


def check_matrix(
    record: Any, tensor: TensorInfo, rows: Range, weights: Weights, held: Sequence[int] | None = None
) -> None:
    """A MATRIX record's panels are those that packing the shard's rows of each held expert gives; None: of all."""
    format_, experts = BY_GGML_TYPE[tensor.type], file_rows(tensor, weights)
    table = at(int(record["experts"]), 8 * len(experts)).view(np.uintp)
    panels = -(-rows.size // ROWS)
    assert (record["rows"], record["panels"]) == (rows.size, panels)
    assert record["blocks"] == tensor.shape[-1] // BLOCK
    assert record["panel_bytes"] == panel_bytes(tensor)
    assert record["expert_bytes"] == panels * panel_bytes(tensor)
    assert record["tile"] == NUMBERS[format_.name]
    assert record["integer"] == format_.integer
    for expert, stored in enumerate(experts):
        if held is not None and expert not in held:
            assert table[expert] == 0
        elif panels:
            expected = packed(format_, stored[rows.start : rows.stop]).reshape(panels, -1)
            size, stride = int(record["panel_stride"]) * (panels - 1) + panel_bytes(tensor), int(record["panel_stride"])
            lying = as_strided(at(int(table[expert]), size), (panels, panel_bytes(tensor)), (stride, 1))
            np.testing.assert_array_equal(lying, expected)


def check_vector(address: int, tensor: TensorInfo | None, weights: Weights) -> None:
    """A vector in memory is that of the file; none lies at 0."""
    if tensor is None:
        assert address == 0
    else:
        found = at(address, 4 * tensor.shape[0]).view(np.float32)
        np.testing.assert_array_equal(found, weights[tensor.name])


def load(spec: ModelSpec, plan: ShardPlan, shard: Shard, threads: int = 2) -> tuple[LoadedWeights, list[int]]:
    """Load a shard; also what was reported."""
    told: list[int] = []
    place = PrivateMemory(plan, shard.worker)
    return load_weights(spec, shard, arrange(spec, plan, shard), threads, told.append, place), told


def plan_of(spec: ModelSpec, workers: int, whole: Sequence[int] = ()) -> ShardPlan:
    """An even split, but for layers whose experts are `whole`: expert 1 with all workers, the others in turn."""
    even = even_plan(spec, [(0,)] * workers)
    every = tuple(range(workers))
    owners = ExpertOwners(tuple(every if expert == 1 else (expert % workers,) for expert in range(spec.experts)))
    return replace(even, experts=tuple(owners if layer in whole else None for layer in range(spec.layers)))


@pytest.mark.parametrize("whole", [(), (1,), (0, 1)], ids=["by row", "mixed", "whole experts"])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_every_row_is_the_files_row(stored: Stored, workers: int, whole: tuple[int, ...]) -> None:
    spec, weights = stored.spec, stored.weights
    plan = plan_of(spec, workers, whole)
    for shard in plan.shards:
        loaded, _ = load(spec, plan, shard)
        for record, tensors, owners in zip(loaded.arranged.layers, spec.layer_tensors, plan.experts, strict=True):
            assert record["whole"] == (owners is not None)
            for field, tensor, rows in layer_rows(tensors, spec, shard, owners):
                held = owners.held_by(shard.worker) if owners and field in ("gate", "up", "down") else None
                check_matrix(record[field], tensor, rows, weights, held)
            check_vector(int(record["attention_norm"]), tensors.attn_norm, weights)
            check_vector(int(record["feed_forward_norm"]), tensors.ffn_norm, weights)
            check_vector(int(record["q_norm"]), tensors.attn_q_norm, weights)
            check_vector(int(record["k_norm"]), tensors.attn_k_norm, weights)
            assert record["q_bias"] == record["k_bias"] == record["v_bias"] == 0
        check_matrix(loaded.arranged.head[0], spec.output, shard.vocabulary, weights)
        np.testing.assert_array_equal(loaded.output_norm, weights[spec.output_norm.name])
        embedding = loaded.embedding.reshape(shard.vocabulary.size, spec.token_embedding.row_bytes)
        [expected] = file_rows(spec.token_embedding, weights)
        np.testing.assert_array_equal(embedding, expected[shard.vocabulary.start : shard.vocabulary.stop])


@pytest.mark.parametrize("workers", [2, 4])
def test_all_workers_together_hold_every_row_once(stored: Stored, workers: int) -> None:
    spec = stored.spec
    owned: dict[str, list[int]] = {}
    for shard in plan_of(spec, workers).shards:
        for field, _, rows in layer_rows(spec.layer_tensors[0], spec, shard, None):
            owned.setdefault(field, []).extend(range(rows.start, rows.stop))
    for field, tensor in (("q", "attn_q"), ("output", "attn_output"), ("gate", "gate"), ("up", "up"), ("down", "down")):
        rows_of_tensor = getattr(spec.layer_tensors[0], tensor).shape[-2]
        assert sorted(owned[field]) == list(range(rows_of_tensor))
    for field in ("k", "v"):  # several workers may keep a shared head, but each must have an owner
        assert set(owned[field]) == set(range(spec.kv_heads * spec.head_size))


@pytest.mark.parametrize("whole", [(), (0, 1)], ids=["by row", "whole experts"])
def test_rows_read_in_many_small_pieces_are_the_same(
    stored: Stored, whole: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(stored.spec, 1, whole)
    [shard] = plan.shards
    entire, of_whole = load(stored.spec, plan, shard)
    monkeypatch.setattr(arranging, "READ_BYTES", 1)
    pieces, of_pieces = load(stored.spec, plan, shard, threads=5)
    np.testing.assert_array_equal(pieces.memory, entire.memory)
    assert len(of_pieces) > 5 * len(of_whole)


def test_progress_adds_up_to_the_memory_taken(stored: Stored) -> None:
    plan = plan_of(stored.spec, 3)
    for shard in plan.shards:
        loaded, told = load(stored.spec, plan, shard)
        assert sum(told) == arrange(stored.spec, plan, shard).bytes == loaded.memory.size


def test_layers_and_embedding_share_the_memory_out(stored: Stored) -> None:
    """Whole experts begin on pages of their own; before them at most a page is left empty."""
    plan = plan_of(stored.spec, 2, (1,))
    for shard in plan.shards:
        loaded, told = load(stored.spec, plan, shard)
        arranged = loaded.arranged
        assert arranged.layer_bytes[0].start == 0
        assert arranged.layer_bytes[0].stop == arranged.layer_bytes[1].start
        assert arranged.layer_bytes[1].stop <= arranged.embedding.start
        assert arranged.embedding.stop == loaded.memory.size
        first = arranged.experts[1, 0][arranged.experts[1, 0] != 0]
        assert np.all(first % PAGE == 0)
        assert 0 <= loaded.memory.size - sum(told) <= PAGE * len(first)


def test_a_worker_without_any_rows_loads_nothing_but_what_all_have(stored: Stored) -> None:
    spec, none = stored.spec, Range(0, 0)
    idle = Shard(0, 0, (0,), none, none, none, none, none)
    loaded, _ = load(spec, plan_of(spec, 1), idle)
    for record, tensors in zip(loaded.arranged.layers, spec.layer_tensors, strict=True):
        for field, tensor, rows in layer_rows(tensors, spec, idle, None):
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
    plan = plan_of(spec, 4)
    for shard in plan.shards:
        loaded, _ = load(replace(spec, layer_tensors=layers), plan, shard)
        for field, first, heads in (
            ("q_bias", 100, shard.heads), ("k_bias", 700, shard.kv_heads), ("v_bias", 1000, shard.kv_heads),
        ):  # fmt: skip
            found = at(int(loaded.arranged.layers[1][field]), 4 * heads.size * spec.head_size).view(np.float32)
            start = first + heads.start * spec.head_size
            np.testing.assert_array_equal(found, values[start : start + found.size])
