"""RoPE scaling as operators choose it, and as files that say too little need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.rope_choice import RopeChoice, choose_rope
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.protos.errors import SetupError
from tests.model.architectures.model_bytes import KeyValue, Kind, model_bytes
from tests.model.gguf.gguf_bytes import write

EARLY: dict[str, KeyValue] = {"qwen3moe.context_length": 131072}
PLAIN: dict[str, KeyValue] = {"qwen3moe.context_length": 40960}
LATER: dict[str, KeyValue] = EARLY | {
    "qwen3moe.rope.scaling.type": "yarn",
    "qwen3moe.rope.scaling.factor": 4.0,
    "qwen3moe.rope.scaling.original_context_length": 32768,
}
YARN = ("yarn", 4.0, 32768, 131072)


def chosen(
    folder: Path, keys: dict[str, KeyValue], context_tokens: int = 8192, kind: Kind = "qwen3moe", **choice: Any
) -> tuple[ModelSpec, str]:
    file, remark = choose_rope(open_gguf(write(folder, model_bytes(kind, keys))), RopeChoice(**choice), context_tokens)
    return model_spec(file), remark


def scaled(spec: ModelSpec) -> tuple[str, float, int, int]:
    """Scaling, its factor, the context it counts from, and the context it reaches."""
    return spec.rope.scaling, spec.rope.factor, spec.rope.original_context, spec.context_length


def test_a_file_of_the_early_kind_is_scaled_only_where_that_is_needed(tmp_path: Path) -> None:
    spec, remark = chosen(tmp_path, EARLY)
    assert scaled(spec) == ("none", 1.0, 0, 131072)
    assert "no RoPE scaling, its model was trained on 40960: enough for what is served" in remark
    spec, remark = chosen(tmp_path, EARLY, context_tokens=40961)
    assert scaled(spec) == YARN
    assert "YaRN reaches 40961; --yarn off runs without" in remark
    spec, remark = chosen(tmp_path, EARLY, context_tokens=100_000, yarn="off")
    assert (scaled(spec), remark) == (("none", 1.0, 0, 131072), "")


def test_a_file_that_says_enough_is_run_as_it_says(tmp_path: Path) -> None:
    for context in (100, 40960):
        spec, remark = chosen(tmp_path, PLAIN, context_tokens=context)
        assert (scaled(spec), remark) == (("none", 1.0, 0, 40960), "")
    assert scaled(chosen(tmp_path, LATER, context_tokens=32769)[0]) == YARN
    assert chosen(tmp_path, LATER, context_tokens=32769)[1] == ""
    spec, remark = chosen(tmp_path, LATER, context_tokens=8192)
    assert scaled(spec) == YARN
    assert "--yarn off suits short texts better" in remark
    assert scaled(chosen(tmp_path, LATER, yarn="off")[0])[0] == "none"


def test_yarn_can_be_chosen_for_a_file_that_says_nothing_of_it(tmp_path: Path) -> None:
    """As Qwen3's model card has it: 4 times 32,768."""
    for keys in (PLAIN, EARLY, LATER):
        assert scaled(chosen(tmp_path, keys, yarn="on")[0]) == YARN
        assert scaled(chosen(tmp_path, keys, scaling="yarn")[0]) == YARN
    twice = chosen(tmp_path, PLAIN, yarn="on", factor=2.0)[0]
    assert scaled(twice) == ("yarn", 2.0, 32768, 65536)
    assert scaled(chosen(tmp_path, PLAIN, yarn="on", factor=2.0, original_context=40960)[0])[2:] == (40960, 81920)


def test_other_models_need_a_factor(tmp_path: Path) -> None:
    choices: tuple[dict[str, Any], ...] = ({"yarn": "on"}, {"scaling": "yarn"}, {"scaling": "linear"})
    for choice in choices:
        with pytest.raises(SetupError, match=r"needs a factor, .* say --rope-scale"):
            chosen(tmp_path, {}, kind="llama", **choice)
    stated: dict[str, KeyValue] = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 3.0}
    for keys in ({}, stated):
        spec, _ = chosen(tmp_path, keys, kind="llama", scaling="linear", factor=2.0)
        assert (spec.rope.scaling, spec.rope.factor, spec.context_length) == ("linear", 2.0, 1024)
    yarn, _ = chosen(tmp_path, {}, kind="llama", scaling="yarn", factor=8.0, original_context=256)
    assert scaled(yarn) == ("yarn", 8.0, 256, 2048)


def test_a_scale_alone_is_linear_and_a_context_alone_means_nothing(tmp_path: Path) -> None:
    assert chosen(tmp_path, {}, kind="llama", factor=2.0)[0].rope.scaling == "linear"
    with pytest.raises(SetupError, match="--yarn-orig-ctx need a scaling"):
        chosen(tmp_path, {}, kind="llama", original_context=64)


def test_the_base_of_the_frequencies_can_be_chosen(tmp_path: Path) -> None:
    assert chosen(tmp_path, {}, base=5e6)[0].rope.base == 5e6
