"""The files that tests write: another reader finds in them what was promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, quants

from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorType
from tests.forward import Forward, router_gaps, wide_gap_tokens
from tests.tiny_model import (
    TinyShape,
    shape_of_type,
    split_paths,
    tensor_type,
    tiny_spec,
    tiny_weights,
    write_tiny_model,
)
from tests.tiny_vocabulary import SMALLEST_VOCABULARY, tiny_vocabulary

MIXED = TinyShape(
    type=TensorType.Q8_0,
    types=(("attn_v", TensorType.BF16), ("ffn_up_exps", TensorType.F16), ("output", TensorType.F32)),
)


@pytest.mark.parametrize(
    "shape", [MIXED, *map(shape_of_type, sorted(RUNNABLE_TYPES))], ids=lambda shape: shape.type.name
)
def test_the_file_holds_the_returned_weights_in_the_asked_types(shape: TinyShape, tmp_path: Path) -> None:
    weights = write_tiny_model(tmp_path / "model.gguf", shape, seed=3)
    tensors = GGUFReader(tmp_path / "model.gguf").tensors
    assert {tensor.name for tensor in tensors} == weights.keys()
    for tensor in tensors:
        assert tensor.tensor_type.value == tensor_type(shape, tensor.name)
        np.testing.assert_array_equal(quants.dequantize(tensor.data, tensor.tensor_type), weights[tensor.name])


@pytest.mark.parametrize("type_", sorted(RUNNABLE_TYPES), ids=lambda type_: type_.name)
def test_models_of_every_type_behave_alike(type_: TensorType) -> None:
    shape = shape_of_type(type_)
    result = Forward(tiny_weights(shape), tiny_spec(shape))(list(range(40)))
    assert 1.5 < result.logits.std() < 6
    assert 0.3 < result.hidden[-1].std() < 10
    assert len(np.unique(result.logits.argmax(axis=-1))) > 10


def test_a_split_model_has_its_metadata_in_the_first_part_only(tmp_path: Path) -> None:
    weights = write_tiny_model(tmp_path / "model.gguf", TinyShape(), parts=3)
    parts = [GGUFReader(path) for path in split_paths(tmp_path / "model.gguf", 3)]
    assert sorted(tensor.name for part in parts for tensor in part.tensors) == sorted(weights)
    assert ["tokenizer.ggml.tokens" in part.fields for part in parts] == [True, False, False]
    assert [int(part.fields["split.no"].parts[-1][0]) for part in parts] == [0, 1, 2]


def test_a_seed_gives_the_same_weights_with_and_without_a_file(tmp_path: Path) -> None:
    written = write_tiny_model(tmp_path / "model.gguf", TinyShape(tied=True), seed=5)
    drawn = tiny_weights(TinyShape(tied=True), seed=5)
    assert written.keys() == drawn.keys()
    assert all(np.array_equal(written[name], drawn[name]) for name in written)


def test_every_merge_joins_two_tokens_known_before_it() -> None:
    vocabulary = tiny_vocabulary(SMALLEST_VOCABULARY + 3)
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) == len(vocabulary.types) == SMALLEST_VOCABULARY + 3
    for rank, merge in enumerate(vocabulary.merges):
        known = set(vocabulary.tokens[: 256 + rank])
        assert set(merge.split(" ")) <= known
        assert vocabulary.tokens[256 + rank] == merge.replace(" ", "")


def test_wide_gap_tokens_keep_every_router_gap_wide() -> None:
    model = Forward(tiny_weights(TinyShape()), tiny_spec(TinyShape()))
    gaps = router_gaps(model(wide_gap_tokens(model, 40, least_gap=0.3)), 2)
    assert gaps.shape == (40,)
    assert gaps.min() >= 0.3
    assert router_gaps(model(list(range(40))), 2).min() < 0.3
