"""Hugging Face transformers' models in float32 with the arrays of a GGUF file: the oracle of the forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.model.architectures.spec import ModelSpec

# Not imported in the common way: a developer without the oracle extra skips these tests, and mypy needs no torch.
torch: Any = pytest.importorskip("torch", reason="the oracle extra (torch's CPU build) is not installed")
transformers: Any = pytest.importorskip("transformers")

Arrays = Mapping[str, NDArray[np.float32]]  # by GGUF tensor name, dequantised


def transformers_logits(
    weights: Arrays, spec: ModelSpec, tokens: Sequence[int], last: int = 0
) -> NDArray[np.float32]:  # [T, V], or [last, V]
    """Return the logits of all positions, or of so many last ones, computed in one pass without a cache."""
    model = transformers_model(weights, spec)
    if last:
        model.set_attn_implementation("sdpa")  # which holds no matrix of all positions by all positions
    with torch.no_grad():
        told = model(torch.tensor([list(tokens)]), use_cache=False, logits_to_keep=last)
    logits: NDArray[np.float32] = told.logits[0].numpy()
    return logits


def transformers_model(weights: Arrays, spec: ModelSpec) -> Any:
    model = model_class(spec)(transformers_config(spec)).eval()
    model.load_state_dict(state_of(weights, spec), strict=True)
    return model


def model_class(spec: ModelSpec) -> Any:
    if spec.architecture == "qwen3moe":
        return transformers.Qwen3MoeForCausalLM
    return transformers.MixtralForCausalLM if spec.routed else transformers.LlamaForCausalLM


def transformers_config(spec: ModelSpec) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": spec.vocabulary,
        "hidden_size": spec.width,
        "intermediate_size": spec.expert_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.query_heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_size,
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": spec.rms_epsilon,
        "rope_parameters": rope_parameters(spec),
        "tie_word_embeddings": spec.tied_output,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "eager",
    }
    if not spec.routed:
        return transformers.LlamaConfig(**sizes)
    sizes |= {"num_experts_per_tok": spec.active_experts, "experts_implementation": "eager"}
    if spec.architecture == "llama":
        return transformers.MixtralConfig(**sizes, num_local_experts=spec.experts)
    sizes |= {"num_experts": spec.experts, "moe_intermediate_size": spec.expert_width, "norm_topk_prob": True}
    return transformers.Qwen3MoeConfig(**sizes)


def rope_parameters(spec: ModelSpec) -> dict[str, Any]:
    rope = spec.rope
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.base}
    if rope.scaling != "none":
        parameters |= {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "yarn":
        parameters |= {
            "original_max_position_embeddings": rope.original_context,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
        }
    return parameters


def halves_from_pairs(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the converter's permutation: rows of a head from RoPE pairs (2i, 2i + 1) to halves (i, i + K/2)."""
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def state_of(weights: Arrays, spec: ModelSpec) -> dict[str, Any]:
    """Rename the file's tensors to transformers' parameters."""
    state = {
        "model.embed_tokens.weight": weights[spec.token_embedding.name],
        "model.norm.weight": weights[spec.output_norm.name],
        "lm_head.weight": weights[spec.output.name],
    }
    for index, layer in enumerate(spec.layer_tensors):
        prefix, norm_style = f"model.layers.{index}", spec.rope.style == "norm"
        query, key = weights[layer.attn_q.name], weights[layer.attn_k.name]
        gate, up, down = (weights[tensor.name] for tensor in (layer.gate, layer.up, layer.down))
        state |= {
            f"{prefix}.input_layernorm.weight": weights[layer.attn_norm.name],
            f"{prefix}.post_attention_layernorm.weight": weights[layer.ffn_norm.name],
            f"{prefix}.self_attn.q_proj.weight": halves_from_pairs(query, spec.query_heads) if norm_style else query,
            f"{prefix}.self_attn.k_proj.weight": halves_from_pairs(key, spec.kv_heads) if norm_style else key,
            f"{prefix}.self_attn.v_proj.weight": weights[layer.attn_v.name],
            f"{prefix}.self_attn.o_proj.weight": weights[layer.attn_output.name],
        }
        if layer.attn_q_norm is not None and layer.attn_k_norm is not None:
            state[f"{prefix}.self_attn.q_norm.weight"] = weights[layer.attn_q_norm.name]
            state[f"{prefix}.self_attn.k_norm.weight"] = weights[layer.attn_k_norm.name]
        if layer.router is not None:
            state[f"{prefix}.mlp.gate.weight"] = weights[layer.router.name]
            state[f"{prefix}.mlp.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
            state[f"{prefix}.mlp.experts.down_proj"] = down
        else:
            state[f"{prefix}.mlp.gate_proj.weight"] = gate
            state[f"{prefix}.mlp.up_proj.weight"] = up
            state[f"{prefix}.mlp.down_proj.weight"] = down
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
