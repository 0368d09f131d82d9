"""Reads a model's sizes and its RoPE from the keys of a GGUF file, with llama.cpp's defaults where keys are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from numoe.model.architectures.keys import Keys
from numoe.model.architectures.spec import Rope
from numoe.protos.foreign_text import one_line

# The largest values taken for possible; each is several times that of any model known.
LAYERS, WIDTH, HEADS, HEAD_SIZE, EXPERTS, CONTEXT = 1024, 1 << 20, 4096, 1024, 4096, 1 << 24

LEAST_FACTOR = 1e-3  # of RoPE scaling; 1 over it must not overflow

# All sums of products go over blocks of 32 values.
BLOCK = 32


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The sizes of a model as its keys state them; the tensors must agree."""

    layers: int  # L
    width: int  # D
    query_heads: int  # H
    kv_heads: int  # G
    head_size: int  # K
    experts: int  # E
    active_experts: int  # A
    expert_width: int  # F
    context_length: int


def read_sizes(keys: Keys, routed: bool, own_expert_width: bool) -> ModelSizes:
    """Read the sizes of a model. Raises ModelFileError and UnsupportedModel.

    Args:
        keys: the keys of its architecture.
        routed: whether its layers have experts.
        own_expert_width: whether experts have a key for their width; in files without it they share the dense width.
    """
    width = keys.integer("embedding_length", WIDTH)
    query_heads = keys.integer("attention.head_count", HEADS)
    kv_heads = keys.integer("attention.head_count_kv", HEADS, default=query_heads)
    experts = keys.integer("expert_count", EXPERTS) if routed else 1
    active_experts = keys.integer("expert_used_count", EXPERTS) if routed else 1
    if routed and own_expert_width:
        expert_width = keys.integer("expert_feed_forward_length", WIDTH, default=0, low=0)
        expert_width = expert_width or keys.integer("feed_forward_length", WIDTH) // active_experts
    else:
        expert_width = keys.integer("feed_forward_length", WIDTH)
    sizes = ModelSizes(
        layers=keys.integer("block_count", LAYERS),
        width=width,
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_size=_head_size(keys, width, query_heads),
        experts=experts,
        active_experts=active_experts,
        expert_width=expert_width,
        context_length=keys.integer("context_length", CONTEXT),
    )
    _check_sizes(keys, sizes)
    return sizes


def _head_size(keys: Keys, width: int, query_heads: int) -> int:
    default = width // query_heads
    key_length = keys.integer("attention.key_length", HEAD_SIZE, default=default)
    value_length = keys.integer("attention.value_length", HEAD_SIZE, default=default)
    if key_length != value_length:
        keys.refuse(f"keys have {key_length} values per head but values {value_length}, this version runs equal ones")
    return key_length


def _check_sizes(keys: Keys, sizes: ModelSizes) -> None:
    if sizes.query_heads % sizes.kv_heads:
        keys.contradiction(f"{sizes.query_heads} query heads cannot share {sizes.kv_heads} key-value heads evenly")
    if sizes.active_experts > sizes.experts:
        keys.contradiction(f"{sizes.active_experts} experts are active of only {sizes.experts}")
    summed = {"head size": sizes.head_size, "width": sizes.width, "expert width": sizes.expert_width}
    for what, size in summed.items():
        if size == 0 or size % BLOCK:
            keys.refuse(f"the {what} is {size}, this version runs multiples of {BLOCK}")


def read_rope(keys: Keys, style: Literal["neox", "norm"], head_size: int, context_length: int) -> Rope:
    """Read the rotary position embedding. Raises ModelFileError and UnsupportedModel.

    Scaling is read as llama.cpp does: without a type it is linear, and a factor of 0 or none at all means 1.
    """
    dimensions = keys.integer("rope.dimension_count", HEAD_SIZE, default=head_size)
    if dimensions != head_size:
        keys.refuse(f"{dimensions} of {head_size} values per head are rotated, this version rotates all")
    base = keys.number("rope.freq_base", 2.0, 1e15, default=10000.0)  # YaRN divides by its logarithm
    scaling = keys.text("rope.scaling.type", "linear")
    old_factor = keys.number("rope.scale_linear", 0.0, 1e6, default=0.0)
    factor = keys.number("rope.scaling.factor", 0.0, 1e6, default=old_factor) or 1.0
    if factor < LEAST_FACTOR:
        keys.contradiction(f"a RoPE scaling factor of {factor:g} would stretch one position over {1 / LEAST_FACTOR:g}")
    plain = Rope(style, base, dimensions)
    if scaling in ("none", "linear"):
        keys.expect("rope.scaling.attn_factor", (1.0,))  # llama.cpp multiplies and mixes by these whatever the type is
        keys.expect("rope.scaling.yarn_ext_factor", (0.0, -1.0))  # negative: not set
        _expect_plain_yarn(keys)
    if scaling == "none":
        return plain
    if scaling == "linear":
        return Rope(style, base, dimensions, "linear", factor) if factor != 1.0 else plain
    if scaling != "yarn":
        keys.refuse(f"RoPE scaling is {one_line(scaling, 60)!r}, this version runs none, linear and yarn")
    return _read_yarn(keys, plain, factor, context_length)


def _expect_plain_yarn(keys: Keys) -> None:
    keys.expect("rope.scaling.yarn_attn_factor", (1.0,))
    keys.expect("rope.scaling.yarn_log_multiplier", (0.0,))


def _read_yarn(keys: Keys, plain: Rope, factor: float, context_length: int) -> Rope:
    if factor < 1.0:
        keys.contradiction(f"YaRN with a factor of {factor} would shorten the context")
    _expect_plain_yarn(keys)
    extrapolation = keys.number("rope.scaling.yarn_ext_factor", -1.0, 1.0, default=1.0)
    return Rope(
        style=plain.style,
        base=plain.base,
        dimensions=plain.dimensions,
        scaling="yarn",
        factor=factor,
        original_context=keys.integer("rope.scaling.original_context_length", CONTEXT, default=context_length),
        attention_factor=keys.number("rope.scaling.attn_factor", 1e-3, 1e3, default=1.0),
        extrapolation_factor=extrapolation if extrapolation >= 0 else 1.0,  # negative: not set
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, default=32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, default=1.0),
    )
