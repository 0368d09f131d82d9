"""Models with random weights have the shape asked for, behave like models, and are the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from numoe.model.architectures.reading import model_spec
from numoe.model.gguf.model_file import GgufFile, open_gguf
from numoe.model.gguf.tensors import TensorType, row_bytes
from numoe.model.made_up.synthetic import write_synthetic_model
from numoe.model.made_up.synthetic_shape import SyntheticShape
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import SetupError
from tests.forward import Forward, router_gaps

SMALL = SyntheticShape(layers=3, width=128, query_heads=4, kv_heads=2, head_size=32, experts=8, active_experts=2)
WIDE = replace(SMALL, width=256, head_size=64, expert_width=256, type=TensorType.Q4_K)
DENSE = replace(SMALL, architecture="llama", experts=1, active_experts=1)
SHAPES = {
    "qwen3moe": SMALL,
    "yarn": replace(SMALL, yarn_factor=4.0, context_length=131072),
    "mixtral": replace(SMALL, architecture="llama", tied_output=True),
    "dense": DENSE,
    "mixed": replace(
        SMALL, type=TensorType.BF16, role_types=(("ffn_down_exps", TensorType.F16), ("output", TensorType.Q8_0))
    ),
    **{mix: replace(WIDE, mix=mix) for mix in ("Q2_K", "Q4_K_M", "IQ4_XS", "MXFP4_MOE")},
    "Q3_K_M of narrow rows": replace(SMALL, mix="Q3_K_M"),
}


def weights(file: GgufFile) -> dict[str, NDArray[np.float32]]:
    values = {}
    for name, tensor in file.tensors.items():
        data = np.fromfile(tensor.path, np.uint8, tensor.bytes, offset=tensor.offset)
        rows = data.reshape(-1, row_bytes(tensor.type, tensor.shape[-1]))
        values[name] = quants.dequantize(rows, GGMLQuantizationType(tensor.type)).reshape(tensor.shape)
    return values


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_of_any_shape_is_sound_and_its_activations_stay_sane(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    write_synthetic_model(tmp_path / "model.gguf", shape)
    file = open_gguf(tmp_path / "model.gguf")
    spec = model_spec(file)
    tokens = Tokenizer.from_metadata(file.metadata).encode("<|im_start|>user\nWhat is a mixture of experts?")
    result = Forward(weights(file), spec)(tokens)
    assert 1.5 < result.logits.std() < 6
    assert 0.05 < result.hidden[0].std() < 1
    assert 0.3 < result.hidden[-1].std() < 10
    if shape.experts > 1:
        assert np.median(router_gaps(result, shape.active_experts)) > 0.05
    best_two = np.sort(result.logits, axis=-1)[:, -2:]
    assert (best_two[:, 1] - best_two[:, 0] > 1e-3).all()  # no ties


def test_a_file_without_weights_has_the_header_and_the_size_of_one_with_them(tmp_path: Path) -> None:
    for name, header_only in (("whole", False), ("header", True)):
        write_synthetic_model(tmp_path / name, SHAPES["mixed"], header_only=header_only)
    whole, header = ((tmp_path / name).read_bytes() for name in ("whole", "header"))
    start = min(tensor.offset for tensor in open_gguf(tmp_path / "whole").tensors.values())
    assert len(header) == len(whole)
    assert header[:start] == whole[:start]
    assert not any(header[start:])


def test_the_description_read_back_is_the_shape(tmp_path: Path) -> None:
    shape = SHAPES["yarn"]
    write_synthetic_model(tmp_path / "model.gguf", shape)
    spec = model_spec(open_gguf(tmp_path / "model.gguf"))
    for field in ("layers", "width", "query_heads", "kv_heads", "head_size", "experts", "active_experts", "vocabulary"):
        assert getattr(spec, field) == getattr(shape, field)
    assert (spec.rope.scaling, spec.rope.factor, spec.rope.original_context) == ("yarn", 4.0, 32768)


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate([1, 1, 2]):
        write_synthetic_model(tmp_path / f"{number}.gguf", SMALL, seed)
        files.append((tmp_path / f"{number}.gguf").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (replace(SMALL, type=TensorType.Q4_K), "rows of 128 values, Q4_K needs a multiple of 256"),
        (
            replace(SMALL, width=512, head_size=128, type=TensorType.IQ1_M),
            "random IQ1_M blocks cannot be made, only BF16",
        ),
        (replace(SMALL, vocabulary=260), "a vocabulary of 260 tokens is too small, 261 is the least"),
    ],
)
def test_what_cannot_be_made_is_said(shape: SyntheticShape, said: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=said):
        write_synthetic_model(tmp_path / "model.gguf", shape)
    assert not list(tmp_path.iterdir())
