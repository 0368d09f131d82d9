"""Writes whole models byte by byte, all zeros, with any key or tensor changed or left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from numoe.model.gguf.tensors import BLOCKS, TensorType
from tests.model.gguf.gguf_bytes import BOOL, F32, STRING, U32, array_key, gguf, key, tensor

D, H, G, K, E, A, F, V, L = 32, 4, 2, 32, 4, 2, 64, 8, 2

KeyValue = bool | int | float | str | bytes | None  # bytes: the value of an array; None: leave the key out
Shape = tuple[tuple[int, ...], TensorType] | None  # outermost first; None: leave the tensor out
Kind = Literal["qwen3moe", "llama", "mixtral"]

MIXTRAL: dict[str, KeyValue] = {"expert_count": E, "expert_used_count": A}


def keys_of(kind: Kind) -> dict[str, KeyValue]:
    keys: dict[str, KeyValue] = {
        "block_count": L,
        "context_length": 512,
        "embedding_length": D,
        "feed_forward_length": F,
        "attention.head_count": H,
        "attention.head_count_kv": G,
        "attention.key_length": K,
        "attention.value_length": K,
        "attention.layer_norm_rms_epsilon": 2.0**-20,
        "rope.freq_base": 500000.0,
    }
    if kind == "qwen3moe":
        keys |= {"feed_forward_length": 192, "expert_feed_forward_length": F}
    return keys | ({} if kind == "llama" else MIXTRAL)


def tensors_of(kind: Kind) -> dict[str, Shape]:
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (D,),
        "attn_q": (H * K, D),
        "attn_k": (G * K, D),
        "attn_v": (G * K, D),
        "attn_output": (D, H * K),
        "ffn_norm": (D,),
    }
    if kind == "qwen3moe":
        layer |= {"attn_q_norm": (K,), "attn_k_norm": (K,)}
    if kind == "llama":
        layer |= {"ffn_gate": (F, D), "ffn_up": (F, D), "ffn_down": (D, F)}
    else:
        layer |= {"ffn_gate_inp": (E, D), "ffn_gate_exps": (E, F, D), "ffn_up_exps": (E, F, D)}
        layer |= {"ffn_down_exps": (E, D, F)}
    shapes = {"token_embd.weight": (V, D), "output_norm.weight": (D,), "output.weight": (V, D)}
    shapes |= {f"blk.{index}.{role}.weight": shape for index in range(L) for role, shape in layer.items()}
    return {name: (shape, TensorType.F32) for name, shape in shapes.items()}


def model_bytes(
    kind: Kind = "qwen3moe",
    keys: Mapping[str, KeyValue] | None = None,
    tensors: Mapping[str, Shape] | None = None,
) -> bytes:
    """The file, with the given keys (named in full) and tensors in place of its own."""
    prefix = "qwen3moe" if kind == "qwen3moe" else "llama"
    values: dict[str, KeyValue] = {"general.architecture": prefix}
    values |= {f"{prefix}.{name}": value for name, value in keys_of(kind).items()}
    values |= dict(keys or {})
    entries, offset = [], 0
    for name, described in (tensors_of(kind) | dict(tensors or {})).items():
        if described is None:
            continue
        shape, tensor_type = described
        entries.append(tensor(name, shape[::-1], tensor_type, offset))
        block_values, block_bytes = BLOCKS[tensor_type]
        offset += -(-(math.prod(shape) // block_values * block_bytes) // 32) * 32
    written = [_key(name, value) for name, value in values.items() if value is not None]
    return gguf(written, entries, bytes(offset))


def _key(name: str, value: bool | int | float | str | bytes) -> bytes:
    if isinstance(value, bytes):
        return array_key(name, value)
    if isinstance(value, bool):
        return key(name, BOOL, value)
    if isinstance(value, int):
        return key(name, U32, value)
    return key(name, STRING if isinstance(value, str) else F32, value)
