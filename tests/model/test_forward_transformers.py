"""The NumPy forward against Hugging Face transformers in float32, on random weights of our own.

How far apart may they be? Let u = 2**-24 be float32's unit roundoff; the forward runs in float64 and counts as exact.
Rounding errors of one sum of n products behave as independent and of zero mean, so the sum's relative error is at most
about u sqrt(n) (Higham and Mary 2019), n being at most the widest row W = max(D, H*K, F, T). Rounding RoPE's angles
adds T u to a rotated pair. One layer chains eight such sums: norm, q or k, scores, weighted values, output; norm, gate
or up, down; the logits add two, norm and output. Errors of different sums are independent and add in quadrature:

    one pass:  e = sqrt((u sqrt(W))**2 (8 L + 2) + L (T u)**2)

What enters a layer leaves it larger: the residual keeps it as it is, and the two branches add it again times some
gain, since softmax and router turn an error of a logit into one relative to the probability, and silu(gate) * up adds
those of its two factors. Perturbed embeddings of these models came out of L = 2 layers 2.6 times as large, of L = 4
layers 3.9 times; (1 + GAIN**2)**(L / 2) with GAIN = 1.5 is 3.3 and 10.6. Logits spread by s, and the largest of T*V
errors lies within sqrt(2 ln(T V)) standard deviations:

    |difference| <= s sqrt(2 ln(T V)) e (1 + GAIN**2)**(L / 2)

A bound proves nothing if it lets wrong formulae pass: the second test holds it against slightly wrong models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from numoe.model.spec import ModelSpec
from tests.forward import Forward, wide_gap_tokens
from tests.tiny_model import TinyShape, tiny_spec, tiny_weights
from tests.transformers_model import transformers_logits

GAIN = 1.5
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


def error_bound(spec: ModelSpec, tokens: int, spread: float) -> float:
    """Return the largest difference of logits that rounding explains, as derived above."""
    unit = 2.0**-24
    widest = max(spec.width, spec.query_heads * spec.head_size, spec.expert_width, tokens)
    one_pass = np.sqrt(unit**2 * widest * (8 * spec.layers + 2) + spec.layers * (tokens * unit) ** 2)
    extreme = np.sqrt(2 * np.log(tokens * spec.vocabulary))
    return float(spread * extreme * one_pass * (1 + GAIN**2) ** (spec.layers / 2))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_forward_agrees_with_transformers_to_rounding(shape: TinyShape) -> None:
    weights, spec = tiny_weights(shape), tiny_spec(shape)
    forward = Forward(weights, spec)
    tokens = wide_gap_tokens(forward, TOKENS)
    expected = forward(tokens).logits
    actual = transformers_logits(weights, spec, tokens)
    bound = error_bound(spec, TOKENS, float(expected.std()))
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
    assert np.abs(wrong - right).max() > 10 * error_bound(spec, TOKENS, float(right.std()))
