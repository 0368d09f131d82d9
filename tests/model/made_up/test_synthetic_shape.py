"""The tensors of a synthetic model are those of real models, with the types asked for."""

from __future__ import annotations

import math

import pytest

from numoe.model.gguf.tensors import TensorType
from numoe.model.made_up.synthetic_shape import PRESETS, SyntheticShape, hyperparameters, tensor_shapes, tensor_types


@pytest.mark.parametrize(
    ("preset", "tensors", "bytes_at_q8_0"), [("qwen3-30b-a3b", 579, 32.5e9), ("qwen3-235b-a22b", 1131, 250e9)]
)
def test_presets_are_the_real_models(preset: str, tensors: int, bytes_at_q8_0: float) -> None:
    shape = PRESETS[preset]
    shapes = tensor_shapes(shape)
    assert len(shapes) == tensors
    assert sum(math.prod(size) for size in shapes.values()) * 34 / 32 == pytest.approx(bytes_at_q8_0, rel=0.01)
    assert hyperparameters(shape)["qwen3moe.feed_forward_length"] == (6144 if shape.layers == 48 else 12288)


def test_a_mix_gives_way_to_the_types_of_roles() -> None:
    shape = SyntheticShape(layers=3, width=256, mix="Q2_K", role_types=(("attn_v", TensorType.Q8_0),))
    types = tensor_types(shape)
    assert types["blk.0.attn_v.weight"] is TensorType.Q8_0
    assert types["blk.0.ffn_down_exps.weight"] is TensorType.Q3_K
    assert types["blk.0.ffn_gate_inp.weight"] is TensorType.F32
