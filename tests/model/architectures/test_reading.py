"""Models of every known architecture are described as their keys and tensors say, with llama.cpp's defaults."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from numoe.model.architectures.reading import model_spec as spec_of
from numoe.model.architectures.spec import LayerTensors, ModelSpec, Rope
from numoe.model.gguf.model_file import open_gguf
from numoe.model.gguf.tensors import TensorInfo, TensorType
from tests.model.architectures.model_bytes import A, D, E, F, G, H, K, KeyValue, Kind, L, Shape, V, model_bytes
from tests.model.gguf.gguf_bytes import STRING, U32, array, write
from tests.tiny_model import TinyShape, split_paths, tiny_spec, write_tiny_model

Q8_0 = TensorType.Q8_0


def read(
    folder: Path,
    kind: Kind = "qwen3moe",
    keys: dict[str, KeyValue] | None = None,
    tensors: dict[str, Shape] | None = None,
) -> ModelSpec:
    return spec_of(open_gguf(write(folder, model_bytes(kind, keys, tensors))))


SHAPES = {
    "qwen3moe": TinyShape(rms_epsilon=2.0**-20),
    "qwen3moe, tied, Q8_0": TinyShape(rms_epsilon=2.0**-20, tied=True, type=Q8_0),
    "qwen3moe, types mixed": TinyShape(
        rms_epsilon=2.0**-20, types=(("ffn_down_exps", Q8_0), ("attn_v", TensorType.BF16))
    ),
    "qwen3moe, YaRN": TinyShape(rms_epsilon=2.0**-20, scaling="yarn", factor=4.0, original_context=128),
    "llama with experts": TinyShape("llama", rms_epsilon=2.0**-20, type=TensorType.F16),
    "llama, dense": TinyShape("llama", rms_epsilon=2.0**-20, experts=1, active_experts=1),
    "llama, linear": TinyShape("llama", rms_epsilon=2.0**-20, scaling="linear", factor=2.0),
}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_model_written_by_the_gguf_package_is_described_as_it_was_made(
    tmp_path: Path, shape: TinyShape, parts: int
) -> None:
    write_tiny_model(tmp_path / "tiny.gguf", shape, parts=parts)
    found = spec_of(open_gguf(split_paths(tmp_path / "tiny.gguf", parts)[0]))
    assert without_places(found) == without_places(tiny_spec(shape))


def without_places(spec: ModelSpec) -> ModelSpec:
    """The description with nothing in it of where the tensors lie."""

    def cleared(tensor: TensorInfo | None) -> TensorInfo | None:
        return tensor and replace(tensor, path=Path(), offset=0, bytes=0)

    layers = [
        {field.name: cleared(getattr(layer, field.name)) for field in fields(layer)} for layer in spec.layer_tensors
    ]
    ends = {name: cleared(getattr(spec, name)) for name in ("token_embedding", "output_norm", "output")}
    return replace(spec, layer_tensors=tuple(LayerTensors(**layer) for layer in layers), files=(), **ends)  # type: ignore[arg-type]


def test_every_size_comes_from_its_key(tmp_path: Path) -> None:
    spec = read(tmp_path, keys={"general.name": "A model", "tokenizer.ggml.tokens": array(STRING, ["t"] * V)})
    assert (spec.layers, spec.width, spec.query_heads, spec.kv_heads, spec.head_size) == (L, D, H, G, K)
    assert (spec.experts, spec.active_experts, spec.expert_width, spec.vocabulary) == (E, A, F, V)
    assert (spec.name, spec.architecture, spec.context_length) == ("A model", "qwen3moe", 512)
    assert spec.rms_epsilon == 2.0**-20
    assert spec.rope == Rope("neox", 500000.0, K)
    assert spec.routed
    assert not spec.tied_output


def test_optional_keys_may_be_missing(tmp_path: Path) -> None:
    names = ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base")
    absent: dict[str, KeyValue] = {f"llama.{name}": None for name in names}
    absent |= {"llama.embedding_length": H * K}
    rows: dict[str, Shape] = {}
    for name, shape in (("attn_q", H * K), ("attn_k", H * K), ("attn_v", H * K), ("attn_output", H * K)):
        rows |= {f"blk.{index}.{name}.weight": ((shape, H * K), Q8_0) for index in range(L)}
    for index in range(L):
        rows |= {f"blk.{index}.{name}_norm.weight": ((H * K,), TensorType.F32) for name in ("attn", "ffn")}
        rows |= {f"blk.{index}.ffn_{name}.weight": ((F, H * K), Q8_0) for name in ("gate", "up")}
        rows |= {f"blk.{index}.ffn_down.weight": ((H * K, F), Q8_0)}
    rows |= {
        "token_embd.weight": ((V, H * K), Q8_0),
        "output.weight": None,
        "output_norm.weight": ((H * K,), TensorType.F32),
    }
    spec = read(tmp_path, "llama", absent, rows)
    assert (spec.kv_heads, spec.head_size, spec.name) == (H, K, "model")
    assert spec.rope == Rope("norm", 10000.0, K)
    assert spec.tied_output


def test_experts_without_a_width_of_their_own_share_the_dense_width(tmp_path: Path) -> None:
    keys: dict[str, KeyValue] = {"qwen3moe.expert_feed_forward_length": None, "qwen3moe.feed_forward_length": F * A}
    assert read(tmp_path, keys=keys).expert_width == F


def test_a_dense_layer_is_one_expert_without_a_router(tmp_path: Path) -> None:
    spec = read(tmp_path, "llama")
    layer = spec.layer_tensors[0]
    assert (spec.experts, spec.active_experts, spec.routed) == (1, 1, False)
    assert (layer.gate.shape, layer.up.shape, layer.down.shape) == ((1, F, D), (1, F, D), (1, D, F))


def test_one_expert_may_be_written_without_its_dimension(tmp_path: Path) -> None:
    keys: dict[str, KeyValue] = {"llama.expert_count": 1, "llama.expert_used_count": 1}
    experts: dict[str, Shape] = {}
    for index in range(L):
        experts |= {f"blk.{index}.ffn_{name}_exps.weight": ((F, D), Q8_0) for name in ("gate", "up")}
        experts |= {f"blk.{index}.ffn_down_exps.weight": ((D, F), Q8_0)}
        experts |= {f"blk.{index}.ffn_gate_inp.weight": ((D,), TensorType.F32)}
    layer = read(tmp_path, "mixtral", keys, experts).layer_tensors[0]
    assert layer.router is not None
    assert (layer.router.shape, layer.gate.shape) == ((1, D), (1, F, D))


def test_biases_are_optional(tmp_path: Path) -> None:
    plain, biased = "blk.0.attn_q.bias", "blk.1.attn_q.bias"
    layers = read(tmp_path, "llama", tensors={biased: ((H * K,), TensorType.F32)}).layer_tensors
    assert layers[0].attn_q_bias is None, plain
    assert layers[1].attn_q_bias is not None


def test_a_value_may_be_given_for_every_layer_if_they_are_equal(tmp_path: Path) -> None:
    assert read(tmp_path, keys={"qwen3moe.attention.head_count": array(U32, [H] * L)}).query_heads == H


LINEAR = Rope("neox", 500000.0, K, "linear", 4.0)
YARN = Rope("neox", 500000.0, K, "yarn", 4.0, 128)
SCALINGS: dict[str, tuple[dict[str, KeyValue], Rope]] = {
    "none": ({"type": "none", "factor": 4.0}, Rope("neox", 500000.0, K)),
    "linear": ({"type": "linear", "factor": 4.0}, LINEAR),
    "no type": ({"factor": 4.0}, LINEAR),
    "no factor": ({"type": "linear"}, Rope("neox", 500000.0, K)),
    "factor 0": ({"type": "linear", "factor": 0.0}, Rope("neox", 500000.0, K)),
    "yarn": ({"type": "yarn", "factor": 4.0, "original_context_length": 128}, YARN),
    "yarn without its context": ({"type": "yarn", "factor": 4.0}, replace(YARN, original_context=512)),
    "yarn without a factor": ({"type": "yarn"}, replace(YARN, factor=1.0, original_context=512)),
    "yarn with everything": (
        {
            "type": "yarn",
            "factor": 4.0,
            "original_context_length": 128,
            "attn_factor": 0.5,
            "finetuned": True,
            "yarn_ext_factor": 0.75,
            "yarn_attn_factor": 1.0,
            "yarn_beta_fast": 16.0,
            "yarn_beta_slow": 2.0,
            "yarn_log_multiplier": 0.0,
        },
        replace(YARN, attention_factor=0.5, extrapolation_factor=0.75, beta_fast=16.0, beta_slow=2.0),
    ),
    "yarn with an extrapolation not set": (
        {"type": "yarn", "factor": 4.0, "original_context_length": 128, "yarn_ext_factor": -1.0},
        YARN,
    ),
}


@pytest.mark.parametrize(("keys", "rope"), SCALINGS.values(), ids=list(SCALINGS))
def test_rope_scaling_is_read_as_llama_cpp_reads_it(tmp_path: Path, keys: dict[str, KeyValue], rope: Rope) -> None:
    assert read(tmp_path, keys={f"qwen3moe.rope.scaling.{name}": value for name, value in keys.items()}).rope == rope


def test_the_old_key_of_linear_scaling_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, "llama", {"llama.rope.scale_linear": 8.0}).rope.factor == 8.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention.sliding_window", 0),
        ("final_logit_softcapping", 0.0),
        ("tensor_data_layout", "Meta AI original pth"),
        ("rope.scaling.finetuned", False),
        ("expert_shared_feed_forward_length", 64),
    ],
)
def test_keys_that_change_nothing_are_taken(tmp_path: Path, name: str, value: KeyValue) -> None:
    found = read(tmp_path, keys={f"qwen3moe.{name}": value, "llama.attention.twist": 1})
    assert (found.rope, found.width) == (read(tmp_path).rope, D)
