"""The types in a mix are those that published files have, or that the quantiser's rules say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorType
from numoe.model.made_up.synthetic_shape import PRESETS, SyntheticShape, tensor_types
from numoe.model.made_up.type_mixes import MIXES, named
from numoe.protos.errors import SetupError

QWEN3_30B, QWEN3_235B = PRESETS["qwen3-30b-a3b"], PRESETS["qwen3-235b-a22b"]
MIXTRAL = SyntheticShape(
    "llama", layers=32, width=4096, query_heads=32, kv_heads=8, head_size=128, experts=8, active_experts=2,
    expert_width=14336, vocabulary=32000,
)  # fmt: skip
SMOLLM = SyntheticShape(
    "llama", layers=30, width=576, query_heads=9, kv_heads=3, head_size=64, experts=1, active_experts=1,
    expert_width=1536, vocabulary=49152, tied_output=True,
)  # fmt: skip


def counts(shape: SyntheticShape, mix: str) -> dict[str, int]:
    """How many matrices of each type."""
    found = Counter(kind.name for kind in tensor_types(replace(shape, mix=mix)).values())
    del found["F32"]
    return dict(found)


@pytest.mark.parametrize(
    ("shape", "mix", "expected"),
    [
        (QWEN3_235B, "Q8_0", {"Q8_0": 660}),
        (QWEN3_235B, "Q6_K", {"Q6_K": 660}),
        (QWEN3_235B, "Q4_K_M", {"Q4_K": 567, "Q6_K": 93}),
        (QWEN3_30B, "Q4_K_M", {"Q4_K": 289, "Q6_K": 49}),
        (QWEN3_30B, "Q5_K_M", {"Q5_K": 289, "Q6_K": 49}),
    ],
)
def test_published_files_have_these_types(shape: SyntheticShape, mix: str, expected: dict[str, int]) -> None:
    assert counts(shape, mix) == expected


@pytest.mark.parametrize(
    ("shape", "mix", "expected"),
    [
        (QWEN3_30B, "Q2_K", {"Q2_K": 4 * 48 + 1, "Q3_K": 2 * 48, "Q4_K": 48, "Q6_K": 1}),
        (QWEN3_30B, "Q2_K_S", {"Q2_K": 6 * 48 + 1 - 6, "Q4_K": 48 + 6, "Q6_K": 1}),
        (QWEN3_30B, "Q3_K_S", {"Q3_K": 7 * 48 + 1, "Q6_K": 1}),
        (QWEN3_30B, "Q3_K_M", {"Q3_K": 4 * 48 + 1, "Q5_K": 2 + 3, "Q4_K": 3 * 48 - 5, "Q6_K": 1}),
        (QWEN3_30B, "Q3_K_L", {"Q3_K": 4 * 48 + 1, "Q5_K": 3 * 48, "Q6_K": 1}),
        (QWEN3_30B, "Q4_K_S", {"Q4_K": 7 * 48 + 1 - 10, "Q5_K": 4 + 6, "Q6_K": 1}),
        (QWEN3_30B, "IQ4_XS", {"IQ4_XS": 6 * 48 + 1 - 6, "Q5_K": 48 + 6, "Q6_K": 1}),
        (QWEN3_30B, "Q4_0", {"Q4_0": 7 * 48 + 1, "Q6_K": 1}),
        (QWEN3_30B, "MXFP4_MOE", {"MXFP4": 3 * 48, "Q8_0": 4 * 48 + 2}),
        (MIXTRAL, "Q4_K_M", {"Q8_0": 64, "Q5_K": 32, "Q4_K": 32 * 3 + 1 + 16, "Q6_K": 1 + 16}),
        (SMOLLM, "Q4_K_M", {"Q5_0": 30 * 5 + 16, "Q8_0": 1 + 14, "Q4_K": 16, "Q6_K": 14}),
    ],
)
def test_mixes_follow_the_rules(shape: SyntheticShape, mix: str, expected: dict[str, int]) -> None:
    """8 experts get better attention; rows of 576 values get types of 32 values."""
    assert counts(shape, mix) == expected


def test_a_tied_embedding_is_typed_as_the_output() -> None:
    assert tensor_types(replace(QWEN3_30B, tied_output=True, mix="Q2_K"))["token_embd.weight"] is TensorType.Q6_K


@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_runs(mix: str) -> None:
    assert set(tensor_types(replace(QWEN3_30B, mix=mix)).values()) <= RUNNABLE_TYPES


def test_a_name_is_a_mix_or_a_type() -> None:
    assert named("Q4_K_M") == (TensorType.Q4_K, "Q4_K_M")
    assert named("Q4_K") == (TensorType.Q4_K, "")
    assert all(named(kind.name)[0] is kind for kind in RUNNABLE_TYPES)


@pytest.mark.parametrize("name", ["Q4", "IQ1_M", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SetupError, match=rf"^{name} is no type of weights that can be made; known are Q2_K, .*BF16"):
        named(name)
