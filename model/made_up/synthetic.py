"""Models of any shape with random weights, for measuring speed and testing what real models are too large for.

*Guarantees*: the same file for the same shape and seed; activations stay near 1 from layer to layer, routing has wide
gaps, logits spread by about 3, so that rounding decides neither experts nor tokens. Memory stays below 1 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.tensors import BLOCKS, TensorType
from numoe.model.gguf.values import Value
from numoe.model.gguf.write import NewTensor, Progress, check_row, write_gguf
from numoe.model.made_up.random_blocks import POOL_BLOCKS, BlockPools
from numoe.model.made_up.random_vocabulary import vocabulary_metadata
from numoe.model.made_up.type_mixes import MixFacts, mixed_type


@dataclass(frozen=True, slots=True)
class SyntheticShape:
    """What to write; norms and router are F32, as in real files."""

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


def write_synthetic_model(
    path: str | Path,
    shape: SyntheticShape,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    header_only: bool = False,
) -> None:
    """Writes the model; `progress` is told bytes done and in all. Raises SetupError.

    `header_only`: all but the weights, which are a hole in the file: enough to plan with.
    """
    shapes = tensor_shapes(shape)
    types = tensor_types(shape)
    for name, size in shapes.items():
        check_row(name, types[name], size)
    pools = BlockPools(seed, _pool_size(shapes, types))
    tensors = [
        NewTensor(name, types[name], size, partial(_pieces, pools, shape, name, types[name], (seed, index)))
        for index, (name, size) in enumerate(shapes.items())
    ]
    metadata = {**hyperparameters(shape), **vocabulary_metadata(shape.vocabulary)}
    write_gguf(Path(path), shape.architecture, metadata, tensors, progress, header_only=header_only)


def tensor_shapes(shape: SyntheticShape) -> dict[str, tuple[int, ...]]:
    """GGUF names and shapes, outermost first, in the converters' order."""
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
    """The architecture's keys of the GGUF file."""
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


def _role(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def tensor_types(shape: SyntheticShape) -> dict[str, TensorType]:
    """The type of each tensor; norms and router are F32."""
    facts = MixFacts(shape.layers, shape.experts, shape.query_heads // shape.kv_heads, shape.tied_output)
    own, types = dict(shape.role_types), {}
    for name, size in tensor_shapes(shape).items():
        role, layer = _role(name), int(name.split(".")[1]) if name.startswith("blk.") else 0
        if role.endswith("_norm") or role == "ffn_gate_inp":
            types[name] = TensorType.F32
        elif role in own:
            types[name] = own[role]
        else:
            types[name] = mixed_type(shape.mix, role, layer, size[-1], facts) if shape.mix else shape.type
    return types


def _pool_size(shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, TensorType]) -> int:
    """As many blocks as the largest tensor has, rounded up to a prime; POOL_BLOCKS at most."""
    blocks = max(math.prod(size) // max(BLOCKS[types[name]][0], 32) for name, size in shapes.items())
    if blocks >= POOL_BLOCKS:
        return POOL_BLOCKS
    return next(n for n in range(max(blocks, 2), POOL_BLOCKS + 1) if all(n % d for d in range(2, math.isqrt(n) + 1)))


def _pieces(
    pools: BlockPools, shape: SyntheticShape, name: str, kind: TensorType, seed: tuple[int, int]
) -> Iterator[NDArray[Any]]:
    size, role = tensor_shapes(shape)[name], _role(name)
    values = np.random.default_rng(seed).standard_normal
    fan_in = size[-1] ** -0.5
    if role.endswith("_norm"):
        yield np.float32(1) + np.float32(0.1) * values(size, np.float32)
    elif role == "ffn_gate_inp":
        yield values(size, np.float32) * np.float32(4 * fan_in)
    else:
        spread = {"output": 3 * fan_in, "token_embd": 3 * fan_in if shape.tied_output else 0.4}.get(role, fan_in)
        yield from pools.pieces(kind, size, spread)
