"""The shape of a synthetic model, and the tensors, types and keys that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from numoe.model.gguf.tensors import TensorType
from numoe.model.gguf.values import Value
from numoe.model.made_up.type_mixes import MixFacts, mixed_type


@dataclass(frozen=True, slots=True)
class SyntheticShape:
    """What a synthetic model consists of; norms and router are F32, as in real files."""

    architecture: Literal["qwen3moe", "llama"] = "qwen3moe"
    layers: int = 4  # L
    width: int = 512  # D
    query_heads: int = 8  # H
    kv_heads: int = 2  # G
    head_size: int = 64  # K
    experts: int = 16  # E; 1: a dense feed-forward (llama only)
    active_experts: int = 4  # A
    expert_width: int = 256  # F
    vocabulary: int = 2048  # V
    context_length: int = 40960
    rms_epsilon: float = 1e-6
    rope_base: float = 1e6
    yarn_factor: float = 0.0  # 0: no YaRN
    yarn_original_context: int = 32768
    tied_output: bool = False
    type: TensorType = TensorType.Q8_0
    mix: str = ""  # the types of real files, e.g. Q4_K_M (type_mixes.py); "": `type` everywhere
    role_types: tuple[tuple[str, TensorType], ...] = ()  # e.g. ("ffn_down_exps", TensorType.Q6_K)


_QWEN3_30B = SyntheticShape(
    layers=48,
    width=2048,
    query_heads=32,
    kv_heads=4,
    head_size=128,
    experts=128,
    active_experts=8,
    expert_width=768,
    vocabulary=151936,
)
_QWEN3_235B = SyntheticShape(
    layers=94,
    width=4096,
    query_heads=64,
    kv_heads=4,
    head_size=128,
    experts=128,
    active_experts=8,
    expert_width=1536,
    vocabulary=151936,
)
# Fewer layers: dataclasses.replace(PRESETS["qwen3-30b-a3b"], layers=4).
PRESETS: Mapping[str, SyntheticShape] = MappingProxyType({"qwen3-30b-a3b": _QWEN3_30B, "qwen3-235b-a22b": _QWEN3_235B})


def tensor_shapes(shape: SyntheticShape) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, outermost first, by its GGUF name and in the order of converters."""
    width, expert_width = shape.width, shape.expert_width
    routed = shape.experts > 1
    experts, suffix = ((shape.experts,), "_exps") if routed else ((), "")
    query_rows, kv_rows = shape.query_heads * shape.head_size, shape.kv_heads * shape.head_size
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "attn_q": (query_rows, width),
        "attn_k": (kv_rows, width),
        "attn_v": (kv_rows, width),
        "attn_output": (width, query_rows),
        "ffn_norm": (width,),
        f"ffn_gate{suffix}": (*experts, expert_width, width),
        f"ffn_up{suffix}": (*experts, expert_width, width),
        f"ffn_down{suffix}": (*experts, width, expert_width),
    }
    if shape.architecture == "qwen3moe":
        layer |= {"attn_q_norm": (shape.head_size,), "attn_k_norm": (shape.head_size,)}
    if routed:
        layer["ffn_gate_inp"] = (shape.experts, width)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocabulary, width)}
    for number in range(shape.layers):
        shapes |= {f"blk.{number}.{role}.weight": size for role, size in layer.items()}
    shapes["output_norm.weight"] = (width,)
    return shapes if shape.tied_output else shapes | {"output.weight": (shape.vocabulary, width)}


def hyperparameters(shape: SyntheticShape) -> dict[str, Value]:
    """The keys of the GGUF file but those of the tokenizer."""
    own: dict[str, Value] = {
        "block_count": shape.layers,
        "context_length": shape.context_length,
        "embedding_length": shape.width,
        # Qwen's files state the width of a dense layer that no layer has, Mixtral's the width of one expert.
        "feed_forward_length": shape.expert_width * (shape.active_experts if shape.architecture == "qwen3moe" else 1),
        "attention.head_count": shape.query_heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_size,
        "attention.value_length": shape.head_size,
        "attention.layer_norm_rms_epsilon": shape.rms_epsilon,
        "rope.freq_base": shape.rope_base,
        "vocab_size": shape.vocabulary,
    }
    if shape.experts > 1:
        own |= {
            "expert_count": shape.experts,
            "expert_used_count": shape.active_experts,
            "expert_feed_forward_length": shape.expert_width,
        }
    if shape.architecture == "llama":
        own["rope.dimension_count"] = shape.head_size
    if shape.yarn_factor:
        own |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": shape.yarn_factor,
            "rope.scaling.original_context_length": shape.yarn_original_context,
        }
    name = f"synthetic {shape.architecture} of {shape.layers} layers, random weights"
    return {"general.type": "model", "general.name": name} | {
        f"{shape.architecture}.{key}": value for key, value in own.items()
    }


def tensor_types(shape: SyntheticShape) -> dict[str, TensorType]:
    """The type of each tensor; norms and router are F32."""
    facts = MixFacts(shape.layers, shape.experts, shape.query_heads // shape.kv_heads, shape.tied_output)
    own, types = dict(shape.role_types), {}
    for name, size in tensor_shapes(shape).items():
        role, layer = role_of(name), int(name.split(".")[1]) if name.startswith("blk.") else 0
        if role.endswith("_norm") or role == "ffn_gate_inp":
            types[name] = TensorType.F32
        elif role in own:
            types[name] = own[role]
        else:
            types[name] = mixed_type(shape.mix, role, layer, size[-1], facts) if shape.mix else shape.type
    return types


def role_of(name: str) -> str:
    """What a tensor is in its layer: "attn_q" of "blk.0.attn_q.weight"."""
    return name.removesuffix(".weight").rpartition(".")[2]
