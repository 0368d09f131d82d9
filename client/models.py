"""What is served, as plain data with the fields of numoe.v1's Model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorTypeShare:
    """The tensors of one type."""

    type: str
    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Model:
    """The served model."""

    name: str
    architecture: str
    layers: int
    width: int
    query_heads: int
    kv_heads: int
    head_size: int
    experts: int
    active_experts: int
    expert_width: int
    vocabulary: int
    model_context_tokens: int
    context_tokens: int
    sequences: int
    weight_bytes: int
    tensor_types: tuple[TensorTypeShare, ...]
    end_token_ids: tuple[int, ...]
    chat_template: bool
