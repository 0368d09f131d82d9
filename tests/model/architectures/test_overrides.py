"""What an operator sets in place of a file's metadata is read as if the file said so; what nothing reads is refused."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from numoe.model.architectures.overrides import override
from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.registry import ARCHITECTURES
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.protos.errors import ModelFileError, SetupError
from tests.model.architectures.model_bytes import A, E, F, KeyValue, Kind, model_bytes
from tests.model.gguf.gguf_bytes import write

assert A == 2


def read(folder: Path, *overrides: str, kind: Kind = "qwen3moe", keys: dict[str, KeyValue] | None = None) -> ModelSpec:
    return model_spec(override(open_gguf(write(folder, model_bytes(kind, keys))), overrides))


def test_fewer_experts_are_active_and_all_else_is_as_the_file_says(tmp_path: Path) -> None:
    as_told, fewer = read(tmp_path), read(tmp_path, "qwen3moe.expert_used_count=int:1")
    assert (as_told.active_experts, fewer.active_experts) == (A, 1)
    assert fewer.expert_width == F
    assert fewer.layer_tensors == as_told.layer_tensors


def test_experts_keep_their_width_where_it_is_the_dense_ones_share(tmp_path: Path) -> None:
    keys: dict[str, KeyValue] = {
        "qwen3moe.expert_feed_forward_length": 0,
        "qwen3moe.feed_forward_length": F * A,
    }
    assert read(tmp_path, "qwen3moe.expert_used_count=int:1", keys=keys).expert_width == F


def test_of_two_values_the_last_one_holds(tmp_path: Path) -> None:
    used = "qwen3moe.expert_used_count=int:"
    assert read(tmp_path, f"{used}1", f"{used}{E}").active_experts == E


def test_numbers_texts_and_flags_are_read(tmp_path: Path) -> None:
    scaling = "qwen3moe.rope.scaling"
    found = read(
        tmp_path,
        "qwen3moe.rope.freq_base=float:5e5",
        f"{scaling}.type=str:yarn",
        f"{scaling}.factor=float:4",
        f"{scaling}.original_context_length=int:64",
        "qwen3moe.expert_weights_norm=bool:true",
        "general.name=str:a=b:c",
    )
    assert (found.rope.base, found.rope.scaling, found.rope.factor, found.rope.original_context) == (5e5, "yarn", 4, 64)
    assert found.name == "a=b:c"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", "expected KEY=TYPE:VALUE"),
        ("qwen3moe.expert_used_count", "expected KEY=TYPE:VALUE"),
        ("qwen3moe.expert_used_count=6", "expected KEY=TYPE:VALUE"),
        ("=int:6", "expected KEY=TYPE:VALUE"),
        ("qwen3moe.expert_used=int:6", "'qwen3moe.expert_used', which is not read of this file"),
        ("llama.expert_used_count=int:6", "which is not read of this file"),
        ("qwen3moe.pooling_type=int:0", "which is not read of this file"),
        ("qwen3moe.expert_used_count=float:6", "the type 'float', expected int"),
        ("qwen3moe.expert_used_count=u32:6", "the type 'u32', expected int"),
        ("qwen3moe.expert_used_count=int:six", "the value 'six', expected a whole number"),
        ("qwen3moe.expert_used_count=int:6.5", "the value '6.5', expected a whole number"),
        ("qwen3moe.rope.freq_base=float:", "the value '', expected a number"),
        ("qwen3moe.expert_weights_norm=bool:1", "the value '1', expected true or false"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(tmp_path: Path, said: str, expected: str) -> None:
    with pytest.raises(SetupError, match=expected):
        read(tmp_path, said)


@pytest.mark.parametrize("value", [0, E + 1])
def test_a_value_out_of_range_is_refused_as_in_a_file(tmp_path: Path, value: int) -> None:
    with pytest.raises(ModelFileError, match="expert"):
        read(tmp_path, f"qwen3moe.expert_used_count=int:{value}")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_key_that_is_read_has_a_type_that_its_value_in_a_file_has(tmp_path: Path, kind: Kind) -> None:
    """Each key's own value, given as an override, changes nothing."""
    file = open_gguf(write(tmp_path, model_bytes(kind)))
    names = {bool: "bool", int: "int", float: "float", str: "str"}
    prefix = next(name for name in ARCHITECTURES if any(key.startswith(f"{name}.") for key in file.metadata))
    given = [
        f"{key}={names[type(value)]}:{str(value).lower() if isinstance(value, bool) else value}"
        for key, value in file.metadata.items()
        if key.startswith(f"{prefix}.") and isinstance(value, bool | int | float | str)
    ]
    assert len(given) > 8
    assert model_spec(override(file, given)) == model_spec(file)
