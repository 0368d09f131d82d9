"""How an architecture is described, and the groups of tensors and keys that several architectures share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorType

F32_ONLY = frozenset({TensorType.F32})


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is expected of one tensor of a layer."""

    field: str  # of spec.LayerTensors, which will hold it
    name: str  # in the file, after `blk.N.`
    shape: tuple[Literal["D", "HK", "GK", "K", "E", "F"], ...]  # outermost first, in the letters of spec.py
    types: frozenset[TensorType] = RUNNABLE_TYPES
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """What models of one architecture consist of."""

    name: str  # general.architecture, and the prefix of the keys
    rope_style: Literal["neox", "norm"]
    own_expert_width: bool  # whether experts have a key for their width beside the dense one
    dense: tuple[Tensor, ...] | None  # the tensors of a layer without experts; None if there is no such model
    routed: tuple[Tensor, ...] | None  # the tensors of a layer with experts
    fixed: Mapping[str, tuple[object, ...]]  # keys that choose arithmetic, with the values that this version computes
    keys: frozenset[str]  # all others that its files may have: a key that nobody here knows may change the arithmetic


ATTENTION = (
    Tensor("attn_norm", "attn_norm.weight", ("D",), F32_ONLY),
    Tensor("attn_q", "attn_q.weight", ("HK", "D")),
    Tensor("attn_k", "attn_k.weight", ("GK", "D")),
    Tensor("attn_v", "attn_v.weight", ("GK", "D")),
    Tensor("attn_output", "attn_output.weight", ("D", "HK")),
)
QKV_BIASES = (
    Tensor("attn_q_bias", "attn_q.bias", ("HK",), F32_ONLY, optional=True),
    Tensor("attn_k_bias", "attn_k.bias", ("GK",), F32_ONLY, optional=True),
    Tensor("attn_v_bias", "attn_v.bias", ("GK",), F32_ONLY, optional=True),
)
QK_NORM = (
    Tensor("attn_q_norm", "attn_q_norm.weight", ("K",), F32_ONLY),
    Tensor("attn_k_norm", "attn_k_norm.weight", ("K",), F32_ONLY),
)
DENSE = (
    Tensor("ffn_norm", "ffn_norm.weight", ("D",), F32_ONLY),
    Tensor("gate", "ffn_gate.weight", ("E", "F", "D")),
    Tensor("up", "ffn_up.weight", ("E", "F", "D")),
    Tensor("down", "ffn_down.weight", ("E", "D", "F")),
)
EXPERTS = (
    Tensor("ffn_norm", "ffn_norm.weight", ("D",), F32_ONLY),
    Tensor("router", "ffn_gate_inp.weight", ("E", "D"), F32_ONLY),
    Tensor("gate", "ffn_gate_exps.weight", ("E", "F", "D")),
    Tensor("up", "ffn_up_exps.weight", ("E", "F", "D")),
    Tensor("down", "ffn_down_exps.weight", ("E", "D", "F")),
)

# Softmax over all experts, the largest chosen, their weights renormalised to sum 1: the one router rule so far.
SOFTMAX_ROUTER: Mapping[str, tuple[object, ...]] = {
    "expert_gating_func": (1, 0),  # softmax; 0 is llama.cpp's "not set"
    "expert_weights_norm": (True,),
    "expert_weights_scale": (1.0, 0.0),
    "expert_group_count": (0, 1),
    "expert_shared_count": (0,),
}
PLAIN_SCALES: Mapping[str, tuple[object, ...]] = {
    "attention.scale": (0.0,),  # 1 / sqrt(K)
    "embedding_scale": (1.0, 0.0),
    "residual_scale": (1.0, 0.0),
    "logit_scale": (1.0, 0.0),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "router_logit_softcapping": (0.0,),
    "use_parallel_residual": (False,),
    "leading_dense_block_count": (0,),
    "interleave_moe_layer_step": (1, 0),
    "nextn_predict_layers": (0,),
    "rope.scaling.alpha": (0.0,),
}

# Keys that are read (hyperparameters.py, reading.py).
SIZES = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "vocab_size",
        "feed_forward_length",
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
    }
)
ROPE = frozenset(
    {
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_log_multiplier",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
    }
)
# Keys of files in use that change nothing here: what they describe has tensors of its own, or is of other tasks.
WITHOUT_EFFECT = frozenset(
    {
        "tensor_data_layout",
        "rope.scaling.finetuned",
        "attention.layer_norm_epsilon",  # of norms that subtract the mean; these models have none
        "expert_group_used_count",  # of groups, of which there must be one
        "expert_shared_feed_forward_length",  # of shared experts, which must be none
        "pooling_type",  # of embeddings of whole texts
    }
)
