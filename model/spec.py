"""The sizes of a model and where its tensors lie: all that planning, loading and serving need to know of a file.

The letters of shapes, everywhere in numoe; capitals for the whole model, lower case for one shard:
T tokens in a step, D width, H/h query heads, G/g key-value heads, K head size, E/e experts, A active experts per token,
F/f expert width, V/v vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal


class TensorType(IntEnum):
    """Numbers of ggml's tensor types, as they stand in a GGUF tensor directory."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41


RUNNABLE_TYPES = frozenset(
    {
        TensorType.F32,
        TensorType.F16,
        TensorType.BF16,
        TensorType.Q4_0,
        TensorType.Q4_1,
        TensorType.Q5_0,
        TensorType.Q5_1,
        TensorType.Q8_0,
        TensorType.Q2_K,
        TensorType.Q3_K,
        TensorType.Q4_K,
        TensorType.Q5_K,
        TensorType.Q6_K,
        TensorType.IQ4_NL,
        TensorType.IQ4_XS,
        TensorType.MXFP4,
    }
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file: its values lie contiguously at `offset` of `path`, rows of the last dimension."""

    name: str
    type: TensorType
    shape: tuple[int, ...]  # outermost first, e.g. [E, F, D] for ffn_gate_exps; a row has shape[-1] values
    path: Path
    offset: int  # bytes from the start of `path`
    bytes: int


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021), with YaRN (Peng et al. 2023) or linear scaling."""

    style: Literal["neox", "norm"]  # neox pairs (i, i + K/2); norm pairs (2i, 2i + 1)
    base: float
    dimensions: int  # values rotated per head, K in all models so far
    scaling: Literal["none", "linear", "yarn"] = "none"
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0  # multiplies the YaRN magnitude 1 + 0.1 ln(factor)
    extrapolation_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """The tensors of one layer by role; None where the architecture has none.

    A dense feed-forward is held as one expert: shapes [1, F, D] and no router.
    """

    attn_norm: TensorInfo  # [D]
    attn_q: TensorInfo  # [H*K, D]
    attn_k: TensorInfo  # [G*K, D]
    attn_v: TensorInfo  # [G*K, D]
    attn_q_bias: TensorInfo | None  # [H*K]
    attn_k_bias: TensorInfo | None  # [G*K]
    attn_v_bias: TensorInfo | None  # [G*K]
    attn_q_norm: TensorInfo | None  # [K]
    attn_k_norm: TensorInfo | None  # [K]
    attn_output: TensorInfo  # [D, H*K]
    ffn_norm: TensorInfo  # [D]
    router: TensorInfo | None  # [E, D]
    gate: TensorInfo  # [E, F, D]
    up: TensorInfo  # [E, F, D]
    down: TensorInfo  # [E, D, F]

    @property
    def matrices(self) -> list[TensorInfo]:
        """Those that activations are multiplied with."""
        attention = [self.attn_q, self.attn_k, self.attn_v, self.attn_output]
        return [*attention, *([self.router] if self.router else []), self.gate, self.up, self.down]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model, as data."""

    architecture: str
    name: str
    layers: int  # L
    width: int  # D
    query_heads: int  # H
    kv_heads: int  # G
    head_size: int  # K
    context_length: int
    vocabulary: int  # V
    rms_epsilon: float
    rope: Rope
    experts: int  # E; 1 for a dense feed-forward
    active_experts: int  # A; 1 for a dense feed-forward
    expert_width: int  # F
    token_embedding: TensorInfo  # [V, D]
    output_norm: TensorInfo  # [D]
    output: TensorInfo  # [V, D]; the token embedding itself when tied
    layer_tensors: tuple[LayerTensors, ...]

    @property
    def tied_output(self) -> bool:
        return self.output.name == self.token_embedding.name

    @property
    def routed(self) -> bool:
        """Whether a router chooses experts (softmax over E, the A largest, renormalised to sum 1)."""
        return self.layer_tensors[0].router is not None

    @property
    def matrix_types(self) -> frozenset[TensorType]:
        """The types of all matrices that activations are multiplied with."""
        layers = (tensor for layer in self.layer_tensors for tensor in layer.matrices)
        return frozenset(tensor.type for tensor in (self.output, *layers))
