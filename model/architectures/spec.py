"""The sizes of a model and where its tensors lie: all that planning, loading and serving need to know of a file.

The letters of shapes, everywhere in numoe; capitals for the whole model, lower case for one shard:
T tokens in a step, D width, H/h query heads, G/g key-value heads, K head size, E/e experts, A active experts per token,
F/f expert width, V/v vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from numoe.model.gguf.file_identity import FileIdentity
from numoe.model.gguf.tensors import TensorInfo, TensorType


@dataclass(frozen=True, slots=True)
class Rope:
    """A rotary position embedding (Su et al. 2021), with YaRN (Peng et al. 2023) or linear scaling."""

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
        """The matrices that activations are multiplied with."""
        attention = [self.attn_q, self.attn_k, self.attn_v, self.attn_output]
        return [*attention, *([self.router] if self.router else []), self.gate, self.up, self.down]


@dataclass(frozen=True, slots=True)
class Stage:
    """Which part of a model one host runs, where several run it one after the other."""

    model: ModelSpec  # the whole
    first_layer: int  # of the part


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model, or consecutive layers of one: its sizes, its arithmetic, and where its tensors lie."""

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
    files: tuple[FileIdentity, ...] = ()  # that were read, and that must be found when the weights are; none: any
    stage: Stage | None = None  # of which whole model it is a part; None: it is one itself

    @property
    def model(self) -> ModelSpec:
        """The whole model."""
        return self if self.stage is None else self.stage.model

    @property
    def first_layer(self) -> int:
        """Which of the whole model's layers the first one is."""
        return 0 if self.stage is None else self.stage.first_layer

    @property
    def embeds(self) -> bool:
        """Whether the first layer reads embedded tokens, not what another part made of them."""
        return self.first_layer == 0

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn from what the last layer makes."""
        return self.first_layer + self.layers == self.model.layers

    @property
    def tied_output(self) -> bool:
        """Whether the output is the token embedding."""
        return self.output.name == self.token_embedding.name

    @property
    def routed(self) -> bool:
        """Whether a router chooses experts (softmax over E, the A largest, renormalised to sum 1)."""
        return self.layer_tensors[0].router is not None

    @property
    def matrix_types(self) -> frozenset[TensorType]:
        """The types of all matrices that activations are multiplied with."""
        layers = (tensor for layer in self.layer_tensors for tensor in layer.matrices)
        return frozenset(tensor.type for tensor in (*((self.output,) if self.draws else ()), *layers))


def stage_of(model: ModelSpec, start: int, stop: int) -> ModelSpec:
    """Layers start to stop - 1 of a whole model, as one host runs them.

    The first part embeds tokens and the last one draws; the embedding and the output are of no other part.
    """
    assert 0 <= start < stop <= model.layers, (start, stop, model.layers)
    if stop - start == model.layers:
        return model
    tensors = model.layer_tensors[start:stop]
    return replace(model, layers=stop - start, layer_tensors=tensors, stage=Stage(model, start))
