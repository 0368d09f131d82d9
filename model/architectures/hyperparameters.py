"""Hyper-parameters of a GGUF file: typed, in range, with llama.cpp's defaults for keys that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from numoe.model.architectures.spec import Rope
from numoe.model.gguf.values import Value, one_line
from numoe.protos.errors import ModelFileError, UnsupportedModel

# The largest values taken for possible; each is several times that of any model known.
LAYERS, WIDTH, HEADS, HEAD_SIZE, EXPERTS, CONTEXT = 1024, 1 << 20, 4096, 1024, 4096, 1 << 24

# All sums of products go over blocks of 32 values.
BLOCK = 32


class Keys:
    """The metadata under one architecture's prefix; faults name the key, what was found and what was expected."""

    __slots__ = ("_metadata", "_path", "_prefix")

    def __init__(self, path: Path, metadata: Mapping[str, Value], prefix: str) -> None:
        self._path = path
        self._metadata = metadata
        self._prefix = prefix

    def integer(self, key: str, high: int, default: int | None = None, low: int = 1) -> int:
        """A whole number in low..high; a list with one entry per layer is taken if all entries are equal."""
        value = self._find(key, default)
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and len(value):
            if (value != value[0]).any():
                self.refuse(f"{self._prefix}.{key} differs between layers, from {value.min()} to {value.max()}")
            value = int(value[0])
        if isinstance(value, bool) or not isinstance(value, int):
            self._fail("key-type", f"{self._prefix}.{key} must be a whole number")
        if not low <= value <= high:
            self._fail("hyper-parameter", f"{self._prefix}.{key} is {value}, expected {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self._find(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail("key-type", f"{self._prefix}.{key} must be a number")
        if not low <= value <= high:  # refuses NaN as well
            self._fail("hyper-parameter", f"{self._prefix}.{key} is {value}, expected {low:g} to {high:g}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self._find(key, default)
        if not isinstance(value, str):
            self._fail("key-type", f"{self._prefix}.{key} must be a string")
        return value

    def expect(self, key: str, allowed: tuple[object, ...]) -> None:
        """Refuses a file in which the key asks for arithmetic that this version does not do."""
        value = self._metadata.get(f"{self._prefix}.{key}", allowed[0])
        if isinstance(value, np.ndarray | list) or value not in allowed:
            found = one_line(str(value), 60)
            self.refuse(f"{self._prefix}.{key} is {found}, this version runs {' or '.join(map(str, allowed))} only")

    def contradiction(self, message: str) -> NoReturn:
        self._fail("hyper-parameter", message)

    def refuse(self, message: str) -> NoReturn:
        raise UnsupportedModel(f"{self._path}: {message}")

    def _find(self, key: str, default: float | str | None) -> Value:
        value = self._metadata.get(f"{self._prefix}.{key}", default)
        if value is None:
            self._fail("key-missing", f"the key {self._prefix}.{key} is missing")
        return value

    def _fail(self, reason: str, message: str) -> NoReturn:
        raise ModelFileError(reason, f"{self._path}: {message}; the file is damaged or was converted wrongly")


@dataclass(frozen=True, slots=True)
class Sizes:
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


def read_sizes(keys: Keys, routed: bool, own_expert_width: bool) -> Sizes:
    """`own_expert_width`: experts have a key for their width; without it they share out the dense width."""
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
    sizes = Sizes(
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


def _check_sizes(keys: Keys, sizes: Sizes) -> None:
    if sizes.query_heads % sizes.kv_heads:
        keys.contradiction(f"{sizes.query_heads} query heads cannot share {sizes.kv_heads} key-value heads evenly")
    if sizes.active_experts > sizes.experts:
        keys.contradiction(f"{sizes.active_experts} experts are active of only {sizes.experts}")
    summed = {"head size": sizes.head_size, "width": sizes.width, "expert width": sizes.expert_width}
    for what, size in summed.items():
        if size == 0 or size % BLOCK:
            keys.refuse(f"the {what} is {size}, this version runs multiples of {BLOCK}")


def read_rope(keys: Keys, style: Literal["neox", "norm"], head_size: int, context_length: int) -> Rope:
    """Scaling as llama.cpp reads it: without a type it is linear, and a factor of 0 or none at all means 1."""
    dimensions = keys.integer("rope.dimension_count", HEAD_SIZE, default=head_size)
    if dimensions != head_size:
        keys.refuse(f"{dimensions} of {head_size} values per head are rotated, this version rotates all")
    base = keys.number("rope.freq_base", 1.0, 1e15, default=10000.0)
    scaling = keys.text("rope.scaling.type", "linear")
    old_factor = keys.number("rope.scale_linear", 0.0, 1e6, default=0.0)
    factor = keys.number("rope.scaling.factor", 0.0, 1e6, default=old_factor) or 1.0
    plain = Rope(style, base, dimensions)
    if scaling == "none":
        return plain
    if scaling == "linear":
        keys.expect("rope.scaling.attn_factor", (1.0,))
        return Rope(style, base, dimensions, "linear", factor) if factor != 1.0 else plain
    if scaling != "yarn":
        keys.refuse(f"RoPE scaling is {one_line(scaling, 60)!r}, this version runs none, linear and yarn")
    return _read_yarn(keys, plain, factor, context_length)


def _read_yarn(keys: Keys, plain: Rope, factor: float, context_length: int) -> Rope:
    if factor < 1.0:
        keys.contradiction(f"YaRN with a factor of {factor} would shorten the context")
    keys.expect("rope.scaling.yarn_attn_factor", (1.0,))
    keys.expect("rope.scaling.yarn_log_multiplier", (0.0,))
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
