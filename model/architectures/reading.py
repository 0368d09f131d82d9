"""Architectures as data: what a model of each is made of, and how a GGUF file is read by that description.

*Guarantees*: a ModelSpec holds only tensors that exist, of the shapes that the keys state and of types that this
version runs, and every tensor of the file is in it: a tensor that nothing here computes with (an output bias, a shared
expert, Llama 3.1's frequency factors) would change the answers, so it is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal

from numoe.model.architectures.hyperparameters import Keys, Sizes, read_rope, read_sizes
from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.architectures.tensor_checks import Claims
from numoe.model.gguf.model_file import GgufFile, Strings
from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorInfo, TensorType
from numoe.model.gguf.values import one_line
from numoe.protos.errors import ModelFileError, UnsupportedModel

F32_ONLY = frozenset({TensorType.F32})


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor by its field in LayerTensors: its name after `blk.N.`, shape in the letters of spec.py, and types."""

    field: str
    name: str
    shape: tuple[Literal["D", "HK", "GK", "K", "E", "F"], ...]
    types: frozenset[TensorType] = RUNNABLE_TYPES
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture. `fixed` lists keys that choose arithmetic, with the values this version computes."""

    name: str  # general.architecture, and the prefix of the keys
    rope_style: Literal["neox", "norm"]
    own_expert_width: bool  # whether experts have a key for their width beside the dense one
    dense: tuple[Tensor, ...] | None  # the tensors of a layer without experts; None if there is no such model
    routed: tuple[Tensor, ...] | None  # the tensors of a layer with experts
    fixed: Mapping[str, tuple[object, ...]]


ATTENTION = (
    Tensor("attn_norm", "attn_norm.weight", ("D",), F32_ONLY),
    Tensor("attn_q", "attn_q.weight", ("HK", "D")),
    Tensor("attn_k", "attn_k.weight", ("GK", "D")),
    Tensor("attn_v", "attn_v.weight", ("GK", "D")),
    Tensor("attn_output", "attn_output.weight", ("D", "HK")),
)
QKV_BIASES = (
    Tensor("attn_q_bias", "attn_q.bias", ("HK",), F32_ONLY, optional=True),
    Tensor("attn_k_bias", "attn_k.bias", ("GK",), F32_ONLY, optional=True),
    Tensor("attn_v_bias", "attn_v.bias", ("GK",), F32_ONLY, optional=True),
)
QK_NORM = (
    Tensor("attn_q_norm", "attn_q_norm.weight", ("K",), F32_ONLY),
    Tensor("attn_k_norm", "attn_k_norm.weight", ("K",), F32_ONLY),
)
DENSE = (
    Tensor("ffn_norm", "ffn_norm.weight", ("D",), F32_ONLY),
    Tensor("gate", "ffn_gate.weight", ("E", "F", "D")),
    Tensor("up", "ffn_up.weight", ("E", "F", "D")),
    Tensor("down", "ffn_down.weight", ("E", "D", "F")),
)
EXPERTS = (
    Tensor("ffn_norm", "ffn_norm.weight", ("D",), F32_ONLY),
    Tensor("router", "ffn_gate_inp.weight", ("E", "D"), F32_ONLY),
    Tensor("gate", "ffn_gate_exps.weight", ("E", "F", "D")),
    Tensor("up", "ffn_up_exps.weight", ("E", "F", "D")),
    Tensor("down", "ffn_down_exps.weight", ("E", "D", "F")),
)

# Softmax over all experts, the largest chosen, their weights renormalised to sum 1: the one router rule so far.
SOFTMAX_ROUTER: Mapping[str, tuple[object, ...]] = {
    "expert_gating_func": (1, 0),  # softmax; 0 is llama.cpp's "not set"
    "expert_weights_norm": (True,),
    "expert_weights_scale": (1.0, 0.0),
    "expert_group_count": (0, 1),
    "expert_shared_count": (0,),
}
PLAIN_SCALES: Mapping[str, tuple[object, ...]] = {
    "attention.scale": (0.0,),  # 1 / sqrt(K)
    "embedding_scale": (1.0, 0.0),
    "residual_scale": (1.0, 0.0),
    "logit_scale": (1.0, 0.0),
    "attention.causal": (True,),
}

QWEN3MOE = Architecture(
    name="qwen3moe",
    rope_style="neox",
    own_expert_width=True,
    dense=None,
    routed=ATTENTION + QKV_BIASES + QK_NORM + EXPERTS,
    fixed={**SOFTMAX_ROUTER, **PLAIN_SCALES},
)
LLAMA = Architecture(
    name="llama",
    rope_style="norm",
    own_expert_width=False,
    dense=ATTENTION + QKV_BIASES + DENSE,
    routed=ATTENTION + QKV_BIASES + EXPERTS,
    fixed={**SOFTMAX_ROUTER, **PLAIN_SCALES},
)
ARCHITECTURES: Mapping[str, Architecture] = {known.name: known for known in (QWEN3MOE, LLAMA)}


def model_spec(file: GgufFile) -> ModelSpec:
    """What the file holds, as data; raises ModelFileError and UnsupportedModel."""
    architecture = _architecture(file)
    keys = Keys(file.path, file.metadata, architecture.name)
    for key, allowed in architecture.fixed.items():
        keys.expect(key, allowed)
    tensors = _layer_description(architecture, keys)
    routed = tensors is architecture.routed
    sizes = read_sizes(keys, routed, architecture.own_expert_width)
    rope = read_rope(keys, architecture.rope_style, sizes.head_size, sizes.context_length)
    claims = Claims(file)
    claims.require(_required_names(tensors, sizes.layers))
    vocabulary = _vocabulary(file, keys)
    token_embedding = claims.take("token_embd.weight", (vocabulary, sizes.width), RUNNABLE_TYPES)
    output_norm = claims.take("output_norm.weight", (sizes.width,), F32_ONLY)
    output = claims.take_if_present("output.weight", (vocabulary, sizes.width), RUNNABLE_TYPES)
    layers = tuple(_layer(claims, tensors, sizes, index) for index in range(sizes.layers))
    claims.refuse_the_rest()
    return ModelSpec(
        architecture=architecture.name,
        name=_name(file),
        layers=sizes.layers,
        width=sizes.width,
        query_heads=sizes.query_heads,
        kv_heads=sizes.kv_heads,
        head_size=sizes.head_size,
        context_length=sizes.context_length,
        vocabulary=vocabulary,
        rms_epsilon=keys.number("attention.layer_norm_rms_epsilon", 1e-12, 1.0),
        rope=rope,
        experts=sizes.experts,
        active_experts=sizes.active_experts,
        expert_width=sizes.expert_width,
        token_embedding=token_embedding,
        output_norm=output_norm,
        output=output or token_embedding,
        layer_tensors=layers,
    )


def _architecture(file: GgufFile) -> Architecture:
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelFileError("architecture-missing", f"{file.path}: general.architecture is missing or no string")
    if name not in ARCHITECTURES:
        runs = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(f"{file.path}: the architecture is {one_line(name, 60)!r}, this version runs {runs}")
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise UnsupportedModel(f"{file.path}: this is of type {one_line(str(kind), 60)!r}, this version runs models")
    return ARCHITECTURES[name]


def _layer_description(architecture: Architecture, keys: Keys) -> tuple[Tensor, ...]:
    has_experts = architecture.dense is None or keys.integer("expert_count", 1 << 32, default=0, low=0) > 0
    tensors = architecture.routed if has_experts else architecture.dense
    if tensors is None:
        keys.refuse(f"the model has experts, this version runs {architecture.name} without")
    return tensors


def _required_names(tensors: tuple[Tensor, ...], layers: int) -> Iterator[str]:
    yield from ("token_embd.weight", "output_norm.weight")
    yield from (f"blk.{layer}.{t.name}" for layer in range(layers) for t in tensors if not t.optional)


def _layer(claims: Claims, tensors: tuple[Tensor, ...], sizes: Sizes, layer: int) -> LayerTensors:
    letters = {
        "D": sizes.width,
        "HK": sizes.query_heads * sizes.head_size,
        "GK": sizes.kv_heads * sizes.head_size,
        "K": sizes.head_size,
        "E": sizes.experts,
        "F": sizes.expert_width,
    }
    found: dict[str, TensorInfo | None] = {}
    for tensor in tensors:
        name, shape = f"blk.{layer}.{tensor.name}", tuple(letters[letter] for letter in tensor.shape)
        take = claims.take_if_present if tensor.optional else claims.take
        found[tensor.field] = take(name, shape, tensor.types)
    missing = {field.name: None for field in fields(LayerTensors) if field.name not in found}
    return LayerTensors(**missing, **found)  # type: ignore[arg-type]  # a test holds the descriptions to the fields


def _vocabulary(file: GgufFile, keys: Keys) -> int:
    vocabulary = file.tensors["token_embd.weight"].shape[0]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    stated = len(tokens) if isinstance(tokens, Strings) else vocabulary
    if stated != vocabulary:
        keys.contradiction(f"the vocabulary has {stated} tokens, but token_embd.weight has {vocabulary} rows")
    stated = keys.integer("vocab_size", 1 << 32, default=vocabulary)
    if stated != vocabulary:
        keys.contradiction(f"vocab_size is {stated}, but token_embd.weight has {vocabulary} rows")
    return vocabulary


def _name(file: GgufFile) -> str:
    name = file.metadata.get("general.name")
    return one_line(name, 200) if isinstance(name, str) and name else file.path.stem
