"""The NumPy forward against Hugging Face transformers in float32, on random weights of our own.

tests/rounding.py says how far apart they may be. A bound proves nothing if it lets wrong formulae pass: the second test
holds it against slightly wrong models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.forward import Forward, wide_gap_tokens
from tests.rounding import largest_error
from tests.tiny_model import TinyShape, tiny_spec, tiny_weights
from tests.transformers_model import transformers_logits

TOKENS = 64

SHAPES = {
    "qwen3moe": TinyShape(),
    "qwen3moe, four layers, wider, tied": TinyShape(layers=4, width=128, active_experts=4, tied=True),
    "qwen3moe, yarn": TinyShape(scaling="yarn", factor=4.0, original_context=2048, context_length=8192, rope_base=1e4),
    "qwen3moe, linear": TinyShape(scaling="linear", factor=2.0),
    "qwen3moe, one kv head": TinyShape(kv_heads=1, expert_width=32, rms_epsilon=1e-3),
    "llama, dense": TinyShape("llama", experts=1, active_experts=1, rope_base=1e4, rms_epsilon=1e-5),
    "llama, dense, yarn": TinyShape(
        "llama", 2, experts=1, active_experts=1, scaling="yarn", factor=8.0, original_context=1024, context_length=8192
    ),
    "llama, experts": TinyShape("llama", rope_base=1e4, rms_epsilon=1e-5),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_forward_agrees_with_transformers_to_rounding(shape: TinyShape) -> None:
    weights, spec = tiny_weights(shape), tiny_spec(shape)
    forward = Forward(weights, spec)
    tokens = wide_gap_tokens(forward, TOKENS)
    expected = forward(tokens).logits
    actual = transformers_logits(weights, spec, tokens)
    bound = largest_error(spec, TOKENS, float(expected.std()))
    assert np.abs(actual - expected).max() <= bound


YARN, ROUTED = SHAPES["qwen3moe, yarn"], SHAPES["llama, experts"]
WRONG = {
    "epsilon ten times too small": (SHAPES["qwen3moe, one kv head"], {"rms_epsilon": 1e-4}),
    "rope base 1 % too large": (ROUTED, {"rope": replace(tiny_spec(ROUTED).rope, base=1.01e4)}),
    "rope pairs of the other style": (ROUTED, {"rope": replace(tiny_spec(ROUTED).rope, style="neox")}),
    "yarn magnitude 0.1 % too large": (YARN, {"rope": replace(tiny_spec(YARN).rope, attention_factor=1.001)}),
    "yarn ramp a little off": (YARN, {"rope": replace(tiny_spec(YARN).rope, beta_fast=16.0)}),
    "one expert too many": (ROUTED, {"active_experts": 3}),
}


@pytest.mark.parametrize(("shape", "change"), WRONG.values(), ids=WRONG)
def test_the_bound_catches_a_slightly_wrong_forward(shape: TinyShape, change: dict[str, Any]) -> None:
    weights, spec = tiny_weights(shape), tiny_spec(shape)
    tokens = np.random.default_rng(0).integers(0, shape.vocabulary, TOKENS).tolist()
    right = Forward(weights, spec)(tokens).logits
    wrong = Forward(weights, replace(spec, **change))(tokens).logits
    assert np.abs(wrong - right).max() > 10 * largest_error(spec, TOKENS, float(right.std()))
