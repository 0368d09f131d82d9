"""Llama: dense models, and those with experts in Mixtral's form."""

from __future__ import annotations

from numoe.model.architectures.description import (
    ATTENTION,
    DENSE,
    EXPERTS,
    PLAIN_SCALES,
    QKV_BIASES,
    ROPE,
    SIZES,
    SOFTMAX_ROUTER,
    WITHOUT_EFFECT,
    Architecture,
)

LLAMA = Architecture(
    name="llama",
    rope_style="norm",
    own_expert_width=False,
    dense=ATTENTION + QKV_BIASES + DENSE,
    routed=ATTENTION + QKV_BIASES + EXPERTS,
    fixed={**SOFTMAX_ROUTER, **PLAIN_SCALES},
    keys=SIZES | ROPE | WITHOUT_EFFECT,
)
