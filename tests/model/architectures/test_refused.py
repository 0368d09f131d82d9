"""What a file states that is impossible, or that this version does not run, is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from numoe.model.architectures.description import WITHOUT_EFFECT
from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.registry import ARCHITECTURES
from numoe.model.gguf.model_file import open_gguf
from numoe.model.gguf.tensors import TensorType
from numoe.protos.errors import ModelFileError, UnsupportedModel
from tests.model.architectures.model_bytes import A, D, E, F, G, H, K, KeyValue, Kind, Shape, V, model_bytes
from tests.model.gguf.gguf_bytes import STRING, U32, array, write

F32, F16 = TensorType.F32, TensorType.F16
NAN = float("nan")

IMPOSSIBLE: dict[str, tuple[str, KeyValue, str]] = {
    "no layers": ("block_count", 0, "hyper-parameter"),
    "a billion layers": ("block_count", 10**9, "hyper-parameter"),
    "more layers than tensors": ("block_count", 3, "tensor-missing"),
    "width 0": ("embedding_length", 0, "hyper-parameter"),
    "width huge": ("embedding_length", 1 << 31, "hyper-parameter"),
    "width unlike the tensors": ("embedding_length", D * 2, "tensor-shape"),
    "no heads": ("attention.head_count", 0, "hyper-parameter"),
    "heads huge": ("attention.head_count", 1 << 31, "hyper-parameter"),
    "heads unlike the tensors": ("attention.head_count", H * 2, "tensor-shape"),
    "no key-value heads": ("attention.head_count_kv", 0, "hyper-parameter"),
    "heads not divisible by key-value heads": ("attention.head_count_kv", 3, "hyper-parameter"),
    "more key-value heads than heads": ("attention.head_count_kv", H * 2, "hyper-parameter"),
    "key-value heads unlike the tensors": ("attention.head_count_kv", 1, "tensor-shape"),
    "head size 0": ("attention.key_length", 0, "hyper-parameter"),
    "head size huge": ("attention.key_length", 1 << 30, "hyper-parameter"),
    "no experts": ("expert_count", 0, "hyper-parameter"),
    "experts huge": ("expert_count", 1 << 30, "hyper-parameter"),
    "experts missing": ("expert_count", None, "key-missing"),
    "experts unlike the tensors": ("expert_count", E + 1, "tensor-shape"),
    "no active experts": ("expert_used_count", 0, "hyper-parameter"),
    "active experts missing": ("expert_used_count", None, "key-missing"),
    "more active experts than experts": ("expert_used_count", E + 1, "hyper-parameter"),
    "expert width unlike the tensors": ("expert_feed_forward_length", F + 32, "tensor-shape"),
    "expert width huge": ("expert_feed_forward_length", 1 << 31, "hyper-parameter"),
    "context 0": ("context_length", 0, "hyper-parameter"),
    "context huge": ("context_length", 0xFFFFFFFF, "hyper-parameter"),
    "context missing": ("context_length", None, "key-missing"),
    "layers missing": ("block_count", None, "key-missing"),
    "layers a string": ("block_count", "two", "key-type"),
    "layers a fraction": ("block_count", 2.0, "key-type"),
    "layers true": ("block_count", True, "key-type"),
    "layers an empty list": ("block_count", array(U32, []), "key-type"),
    "layers a list of strings": ("block_count", array(STRING, ["2"]), "key-type"),
    "epsilon missing": ("attention.layer_norm_rms_epsilon", None, "key-missing"),
    "epsilon 0": ("attention.layer_norm_rms_epsilon", 0.0, "hyper-parameter"),
    "epsilon negative": ("attention.layer_norm_rms_epsilon", -1.0, "hyper-parameter"),
    "epsilon not a number": ("attention.layer_norm_rms_epsilon", NAN, "hyper-parameter"),
    "epsilon a string": ("attention.layer_norm_rms_epsilon", "small", "key-type"),
    "rope base 0": ("rope.freq_base", 0.0, "hyper-parameter"),
    "rope base 1, whose logarithm is 0": ("rope.freq_base", 1.0, "hyper-parameter"),
    "rope base hardly above 1": ("rope.freq_base", 1.0001, "hyper-parameter"),
    "rope base infinite": ("rope.freq_base", float("inf"), "hyper-parameter"),
    "rope base not a number": ("rope.freq_base", NAN, "hyper-parameter"),
    "rope factor negative": ("rope.scaling.factor", -4.0, "hyper-parameter"),
    "rope factor so small that nothing is left": ("rope.scaling.factor", 1e-30, "hyper-parameter"),
    "an old rope factor so small": ("rope.scale_linear", 1e-30, "hyper-parameter"),
    "rope scaling type a number": ("rope.scaling.type", 1, "key-type"),
    "vocabulary unlike the tensors": ("vocab_size", V + 1, "hyper-parameter"),
}


@pytest.mark.parametrize(("name", "value", "reason"), IMPOSSIBLE.values(), ids=list(IMPOSSIBLE))
def test_an_impossible_hyper_parameter_is_refused_by_name(
    tmp_path: Path, name: str, value: KeyValue, reason: str
) -> None:
    path = write(tmp_path, model_bytes(keys={f"qwen3moe.{name}": value}))
    with pytest.raises(ModelFileError) as refusal:
        model_spec(open_gguf(path))
    assert refusal.value.reason == reason
    assert str(refusal.value).startswith(str(path))


UNSUPPORTED_KEYS: dict[str, tuple[Kind, str, KeyValue, str]] = {
    "head size odd": ("qwen3moe", "attention.key_length", 15, "15 values per head but values 32"),
    "key and value length differ": ("qwen3moe", "attention.value_length", 64, "values 64"),
    "some of a head rotated": ("llama", "rope.dimension_count", 8, "8 of 32"),
    "longrope": ("llama", "rope.scaling.type", "longrope", "'longrope'"),
    "linear scaling with an attention factor": ("llama", "rope.scaling.attn_factor", 2.0, "attn_factor is 2.0"),
    "sigmoid router": ("qwen3moe", "expert_gating_func", 2, "expert_gating_func is 2"),
    "weights not renormalised": ("qwen3moe", "expert_weights_norm", False, "expert_weights_norm is False"),
    "weights scaled": ("mixtral", "expert_weights_scale", 2.5, "expert_weights_scale is 2.5"),
    "shared experts": ("mixtral", "expert_shared_count", 1, "expert_shared_count is 1"),
    "expert groups": ("qwen3moe", "expert_group_count", 8, "expert_group_count is 8"),
    "attention scaled": ("llama", "attention.scale", 0.5, "attention.scale is 0.5"),
    "heads that differ between layers": ("llama", "attention.head_count", array(U32, [H, H // 2]), "differs"),
    "a fixed key that is a list": ("llama", "attention.scale", array(U32, [1]), "attention.scale"),
    "a sliding window": ("qwen3moe", "attention.sliding_window", 4096, "attention.sliding_window is 4096"),
    "scores that are capped": ("llama", "attn_logit_softcapping", 50.0, "attn_logit_softcapping is 50.0"),
    "logits that are capped": ("mixtral", "final_logit_softcapping", 30.0, "final_logit_softcapping is 30.0"),
    "values that are clamped": ("mixtral", "attention.clamp_kqv", 8.0, "attention.clamp_kqv is 8.0"),
    "biases of distance": ("llama", "attention.max_alibi_bias", 8.0, "attention.max_alibi_bias is 8.0"),
    "layers of one piece": ("llama", "use_parallel_residual", True, "use_parallel_residual is True"),
    "a key that nobody knows": ("llama", "attention.twist", 0.5, r"the key llama\.attention\.twist = 0\.5, which may"),
    "a hostile key": ("llama", "\x1b[2J" + "k" * 300, "x", r"llama\.\?\[2Jkkk.* \.\.\. k+ = 'x', which may"),
    "a list that nobody knows": ("qwen3moe", "rope.dimension_sections", array(U32, [1, 2]), "sections = an array of 2"),
    "width no multiple of 32": ("llama", "embedding_length", 48, "width is 48"),
    "expert width no multiple of 32": ("llama", "feed_forward_length", 80, "expert width is 80"),
}


@pytest.mark.parametrize(("kind", "name", "value", "part"), UNSUPPORTED_KEYS.values(), ids=list(UNSUPPORTED_KEYS))
def test_a_key_that_this_version_does_not_run_is_refused_by_name(
    tmp_path: Path, kind: Kind, name: str, value: KeyValue, part: str
) -> None:
    prefix = "qwen3moe" if kind == "qwen3moe" else "llama"
    keys: dict[str, KeyValue] = {f"{prefix}.{name}": value}
    if value == 3:
        keys["llama.attention.head_count_kv"] = 3
    with pytest.raises(UnsupportedModel, match=part):
        model_spec(open_gguf(write(tmp_path, model_bytes(kind, keys))))


@pytest.mark.parametrize("size", [8, 16, 48, 17])
def test_a_head_size_of_broken_blocks_is_refused(tmp_path: Path, size: int) -> None:
    keys: dict[str, KeyValue] = {"qwen3moe.attention.key_length": size, "qwen3moe.attention.value_length": size}
    with pytest.raises(UnsupportedModel, match=f"head size is {size}"):
        model_spec(open_gguf(write(tmp_path, model_bytes(keys=keys))))


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"yarn_attn_factor": 2.0}, "yarn_attn_factor is 2.0"),
        ({"yarn_log_multiplier": 0.1}, "yarn_log_multiplier is 0.1"),
    ],
)
def test_a_form_of_yarn_that_this_version_does_not_run_is_refused(
    tmp_path: Path, keys: dict[str, KeyValue], part: str
) -> None:
    stated: dict[str, KeyValue] = {"qwen3moe.rope.scaling.type": "yarn", "qwen3moe.rope.scaling.factor": 4.0}
    stated |= {f"qwen3moe.rope.scaling.{name}": value for name, value in keys.items()}
    with pytest.raises(UnsupportedModel, match=part):
        model_spec(open_gguf(write(tmp_path, model_bytes(keys=stated))))


def test_yarn_that_shortens_the_context_is_impossible(tmp_path: Path) -> None:
    keys: dict[str, KeyValue] = {"qwen3moe.rope.scaling.type": "yarn", "qwen3moe.rope.scaling.factor": 0.5}
    with pytest.raises(ModelFileError, match=r"factor of 0\.5"):
        model_spec(open_gguf(write(tmp_path, model_bytes(keys=keys))))


UNSUPPORTED_TENSORS: dict[str, tuple[Kind, str, Shape, str]] = {
    "norm in F16": ("qwen3moe", "blk.0.attn_norm.weight", ((D,), F16), "blk.0.attn_norm.weight is F16"),
    "router in BF16": ("mixtral", "blk.1.ffn_gate_inp.weight", ((E, D), TensorType.BF16), "runs F32 here"),
    "bias in F16": ("llama", "blk.0.attn_q.bias", ((H * K,), F16), "blk.0.attn_q.bias is F16"),
    "embedding in F64": ("llama", "token_embd.weight", ((V, D), TensorType.F64), "F32, F16, Q4_0, .*Q6_K, .*BF16"),
    "a matrix in Q8_1": ("llama", "blk.0.ffn_up.weight", ((F, D), TensorType.Q8_1), "blk.0.ffn_up.weight is Q8_1"),
    "Llama 3.1's frequencies": ("llama", "rope_freqs.weight", ((K // 2,), F32), "rope_freqs.weight"),
    "an output bias": ("llama", "blk.0.attn_output.bias", ((D,), F32), "blk.0.attn_output.bias"),
    "a shared expert": ("mixtral", "blk.0.ffn_up_shexp.weight", ((F, D), F32), "ffn_up_shexp"),
    "QK-norm where there is none": ("llama", "blk.0.attn_q_norm.weight", ((K,), F32), "blk.0.attn_q_norm"),
    "a layer too many": ("qwen3moe", "blk.2.attn_norm.weight", ((D,), F32), "blk.2.attn_norm.weight"),
}


@pytest.mark.parametrize(("kind", "name", "shape", "part"), UNSUPPORTED_TENSORS.values(), ids=list(UNSUPPORTED_TENSORS))
def test_a_tensor_that_this_version_does_not_run_is_refused_by_name(
    tmp_path: Path, kind: Kind, name: str, shape: Shape, part: str
) -> None:
    with pytest.raises(UnsupportedModel, match=part):
        model_spec(open_gguf(write(tmp_path, model_bytes(kind, tensors={name: shape}))))


BAD_TENSORS: dict[str, tuple[Kind, str, Shape, str]] = {
    "embedding missing": ("qwen3moe", "token_embd.weight", None, "tensor-missing"),
    "last norm missing": ("llama", "output_norm.weight", None, "tensor-missing"),
    "QK-norm missing": ("qwen3moe", "blk.1.attn_q_norm.weight", None, "tensor-missing"),
    "router missing": ("mixtral", "blk.0.ffn_gate_inp.weight", None, "tensor-missing"),
    "embedding of one dimension": ("llama", "token_embd.weight", ((D,), F32), "tensor-shape"),
    "output with another vocabulary": ("llama", "output.weight", ((V + 1, D), F32), "tensor-shape"),
    "matrix transposed": ("llama", "blk.0.attn_q.weight", ((D, H * K), F32), "tensor-shape"),
    "value heads missing": ("llama", "blk.0.attn_v.weight", ((K, D), F32), "tensor-shape"),
    "experts of one dimension": ("mixtral", "blk.0.ffn_up_exps.weight", ((E * F, D), F32), "tensor-shape"),
    "an inner one": ("llama", "blk.0.attn_k.weight", ((G * K, 1, D), F32), "tensor-shape"),
}


@pytest.mark.parametrize(("kind", "name", "shape", "reason"), BAD_TENSORS.values(), ids=list(BAD_TENSORS))
def test_a_tensor_that_contradicts_the_rest_is_refused_by_name(
    tmp_path: Path, kind: Kind, name: str, shape: Shape, reason: str
) -> None:
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")) as refusal:
        model_spec(open_gguf(write(tmp_path, model_bytes(kind, tensors={name: shape}))))
    assert refusal.value.reason == reason


def test_experts_as_separate_tensors_are_named_as_an_old_conversion(tmp_path: Path) -> None:
    tensors: dict[str, Shape] = {f"blk.0.ffn_gate.{expert}.weight": ((F, D), F32) for expert in range(E)}
    tensors["blk.0.ffn_gate_exps.weight"] = None
    with pytest.raises(ModelFileError, match="convert the model again"):
        model_spec(open_gguf(write(tmp_path, model_bytes("mixtral", tensors=tensors))))


def test_an_unknown_architecture_is_refused_with_what_runs(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'deepseek2', this version runs qwen3moe, llama"):
        model_spec(open_gguf(write(tmp_path, model_bytes(keys={"general.architecture": "deepseek2"}))))


@pytest.mark.parametrize("value", [None, 7])
def test_a_file_without_an_architecture_is_refused(tmp_path: Path, value: KeyValue) -> None:
    with pytest.raises(ModelFileError) as refusal:
        model_spec(open_gguf(write(tmp_path, model_bytes(keys={"general.architecture": value}))))
    assert refusal.value.reason == "architecture-missing"


KINDS: list[tuple[KeyValue, str]] = [
    ("adapter", "'adapter'"),
    (7, "7"),
    (array(U32, [1, 2]), "an array of 2"),
    (array(U32, []), "an array of 0"),
    (array(STRING, ["model"]), "an array of 1"),
]


@pytest.mark.parametrize(("kind", "told"), KINDS)
def test_what_is_no_model_is_refused_whatever_it_says_it_is(tmp_path: Path, kind: KeyValue, told: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"of type {told}, this version runs models"):
        model_spec(open_gguf(write(tmp_path, model_bytes(keys={"general.type": kind}))))


def test_a_list_in_place_of_a_value_is_refused_in_words(tmp_path: Path) -> None:
    for value in (array(STRING, ["1"]), array(U32, [1, 2])):
        with pytest.raises(UnsupportedModel, match=r"attention\.causal is an array of [12], this version"):
            model_spec(open_gguf(write(tmp_path, model_bytes(keys={"qwen3moe.attention.causal": value}))))


def test_a_vocabulary_that_contradicts_the_embedding_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, model_bytes(keys={"tokenizer.ggml.tokens": array(STRING, ["t"] * (V - 1))}))
    with pytest.raises(ModelFileError, match=r"7 tokens, but token_embd\.weight has 8 rows"):
        model_spec(open_gguf(path))


def test_experts_that_share_nothing_are_refused(tmp_path: Path) -> None:
    keys: dict[str, KeyValue] = {"qwen3moe.expert_feed_forward_length": 0, "qwen3moe.feed_forward_length": A - 1}
    with pytest.raises(UnsupportedModel, match="expert width is 0"):
        model_spec(open_gguf(write(tmp_path, model_bytes(keys=keys))))


@pytest.mark.parametrize(
    ("key", "value"),
    [("attn_factor", 2.0), ("yarn_attn_factor", 2.0), ("yarn_ext_factor", 0.5), ("yarn_log_multiplier", 0.1)],
)
@pytest.mark.parametrize("scaling", ["none", "linear", None])
def test_a_key_of_yarn_that_changes_angles_without_yarn_too_is_refused(
    tmp_path: Path, scaling: str | None, key: str, value: float
) -> None:
    """llama.cpp multiplies and mixes by them whatever the type of scaling is."""
    keys: dict[str, KeyValue] = {"llama.rope.scaling.type": scaling, f"llama.rope.scaling.{key}": value}
    with pytest.raises(UnsupportedModel, match=rf"rope\.scaling\.{key} is {value}"):
        model_spec(open_gguf(write(tmp_path, model_bytes("llama", keys=keys))))


class Asked(dict[str, Any]):
    """Metadata that notes which keys were asked for."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata)
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)


def test_every_key_of_an_architecture_is_read_or_refused_or_listed_as_without_effect(tmp_path: Path) -> None:
    """So that no list takes a key for known that no code looks at."""
    for name, kinds in {"qwen3moe": ("qwen3moe",), "llama": ("llama", "mixtral")}.items():
        asked: set[str] = set()
        for kind in kinds:
            for scaling in ("none", "linear", "yarn"):
                for own in (F, None):
                    stated: dict[str, KeyValue] = {f"{name}.rope.scaling.type": scaling}
                    stated |= {"qwen3moe.expert_feed_forward_length": own} if kind == "qwen3moe" else {}
                    stated |= {"qwen3moe.feed_forward_length": A * F} if own is None else {}
                    file = open_gguf(write(tmp_path, model_bytes(kind, keys=stated)))  # type: ignore[arg-type]
                    metadata = Asked(file.metadata)
                    model_spec(replace(file, metadata=metadata))
                    asked |= metadata.names
        known = ARCHITECTURES[name]
        read = {key.removeprefix(f"{name}.") for key in asked if key.startswith(f"{name}.")}
        expert_width = {"expert_feed_forward_length"} if name == "llama" else set()  # the dense one stands for it
        assert read == (known.keys | known.fixed.keys()) - WITHOUT_EFFECT - expert_width
