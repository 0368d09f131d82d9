"""Qwen3 as a Mixture of Experts: Qwen3-30B-A3B, Qwen3-235B-A22B."""

from __future__ import annotations

from numoe.model.architectures.description import (
    ATTENTION,
    EXPERTS,
    PLAIN_SCALES,
    QK_NORM,
    QKV_BIASES,
    ROPE,
    SIZES,
    SOFTMAX_ROUTER,
    WITHOUT_EFFECT,
    Architecture,
)

QWEN3MOE = Architecture(
    name="qwen3moe",
    rope_style="neox",
    own_expert_width=True,
    dense=None,
    routed=ATTENTION + QKV_BIASES + QK_NORM + EXPERTS,
    fixed={**SOFTMAX_ROUTER, **PLAIN_SCALES},
    keys=SIZES | ROPE | WITHOUT_EFFECT,
)
