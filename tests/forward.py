"""The whole model in plain NumPy: the formulae of the papers, every position at once, nothing cached, nothing fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from numoe.model.architectures.spec import LayerTensors, ModelSpec, Rope
from numoe.model.gguf.tensors import TensorInfo
from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class ForwardResult:
    logits: Floats  # [T, V]
    router_logits: Floats  # [L, T, E]; [L, T, 0] for a dense model
    hidden: Floats  # [L + 1, T, D], the residual stream before each layer and after the last


@dataclass(frozen=True, slots=True)
class Forward:
    """A model held as arrays of one type, float64 by default so that it may serve as the truth."""

    weights: Mapping[str, NDArray[Any]]  # by GGUF tensor name, dequantised
    spec: ModelSpec
    dtype: DTypeLike = np.float64
    experts: ExpertReduction = ALL_EXPERTS

    def __call__(self, tokens: Sequence[int]) -> ForwardResult:
        spec = self.spec
        x = self.array(spec.token_embedding)[list(tokens)]  # [T, D]
        cos_sin = rope_angles(spec.rope, len(tokens))
        hidden, routing = [x], []
        for layer in spec.layer_tensors:
            x = x + self.attention(layer, rms_norm(x, self.array(layer.attn_norm), spec.rms_epsilon), cos_sin)
            update, router_logits = self.feed_forward(layer, rms_norm(x, self.array(layer.ffn_norm), spec.rms_epsilon))
            x = x + update
            hidden.append(x)
            routing.append(router_logits)
        normed = rms_norm(x, self.array(spec.output_norm), spec.rms_epsilon)
        return ForwardResult(normed @ self.array(spec.output).T, np.stack(routing), np.stack(hidden))

    def array(self, info: TensorInfo) -> Floats:
        return self.weights[info.name].astype(self.dtype).reshape(info.shape)

    def attention(self, layer: LayerTensors, x: Floats, cos_sin: tuple[Floats, Floats]) -> Floats:
        """Causal grouped-query attention of x [T, D]; query head h reads key-value head h // (H / G)."""
        spec, positions = self.spec, len(x)
        q = self.heads(x, layer.attn_q, layer.attn_q_bias, spec.query_heads)  # [T, H, K]
        k = self.heads(x, layer.attn_k, layer.attn_k_bias, spec.kv_heads)  # [T, G, K]
        v = self.heads(x, layer.attn_v, layer.attn_v_bias, spec.kv_heads)  # [T, G, K]
        if layer.attn_q_norm is not None and layer.attn_k_norm is not None:
            q = rms_norm(q, self.array(layer.attn_q_norm), spec.rms_epsilon)
            k = rms_norm(k, self.array(layer.attn_k_norm), spec.rms_epsilon)
        q, k = rotate(q, cos_sin, spec.rope), rotate(k, cos_sin, spec.rope)
        future = np.triu(np.full((positions, positions), -np.inf, self.dtype), 1)
        out = np.empty_like(q)
        for head in range(spec.query_heads):
            kv_head = head // (spec.query_heads // spec.kv_heads)
            scores = q[:, head] @ k[:, kv_head].T / spec.head_size**0.5
            out[:, head] = softmax(scores + future) @ v[:, kv_head]
        return out.reshape(positions, -1) @ self.array(layer.attn_output).T

    def heads(self, x: Floats, matrix: TensorInfo, bias: TensorInfo | None, heads: int) -> Floats:
        y = x @ self.array(matrix).T
        if bias is not None:
            y = y + self.array(bias)
        return y.reshape(len(x), heads, self.spec.head_size)

    def feed_forward(self, layer: LayerTensors, x: Floats) -> tuple[Floats, Floats]:
        """Return the weighted sum of the chosen experts' outputs [T, D] and the router's logits [T, E]."""
        gate, up, down = self.array(layer.gate), self.array(layer.up), self.array(layer.down)
        if layer.router is None:
            return swiglu(x, gate[0], up[0], down[0]), np.empty((len(x), 0), self.dtype)
        logits = x @ self.array(layer.router).T
        chosen, shares = route(logits, self.spec.active_experts, self.experts)
        y = np.zeros_like(x)
        for expert in range(self.spec.experts):
            rows, ranks = np.nonzero(chosen == expert)
            y[rows] += shares[rows, ranks, None] * swiglu(x[rows], gate[expert], up[expert], down[expert])
        return y, logits


def rms_norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    mean_square: Floats = np.mean(x * x, axis=-1, keepdims=True)
    normed: Floats = x / np.sqrt(mean_square + epsilon)
    return normed * weight


def softmax(x: Floats) -> Floats:
    exponentials: Floats = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Floats = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / total


def swiglu(x: Floats, gate: Floats, up: Floats, down: Floats) -> Floats:
    gated: Floats = x @ gate.T
    product: Floats = gated / (1 + np.exp(-gated)) * (x @ up.T)
    return product @ down.T


def route(logits: Floats, active: int, experts: ExpertReduction = ALL_EXPERTS) -> tuple[NDArray[np.intp], Floats]:
    """Return the experts with the largest probabilities, largest first, and those renormalised to sum 1: [T, A].

    Those that `experts` leaves out have share 0 (ik_llama.cpp pull request 239).
    """
    probabilities = softmax(logits)
    chosen = np.argsort(-probabilities, axis=-1, kind="stable")[:, :active]
    shares = np.take_along_axis(probabilities, chosen, axis=-1)
    dropped = shares < experts.threshold * shares[:, :1]
    dropped[:, : experts.fewest] = False
    shares = np.where(dropped, 0.0, shares)
    return chosen, shares / shares.sum(axis=-1, keepdims=True)


def rope_angles(rope: Rope, positions: int) -> tuple[Floats, Floats]:
    """Return cosines and sines [T, dimensions / 2], times YaRN's magnitude (Peng et al. 2023, "NTK-by-parts")."""
    pairs = np.arange(rope.dimensions // 2)
    frequencies = rope.base ** (-2.0 * pairs / rope.dimensions)
    magnitude = rope.attention_factor
    if rope.scaling == "linear":
        frequencies = frequencies / rope.factor
    if rope.scaling == "yarn":
        low, high = (correction_pair(rope, beta) for beta in (rope.beta_fast, rope.beta_slow))
        low, high = max(0, np.floor(low)), min(rope.dimensions - 1, np.ceil(high))
        kept = rope.extrapolation_factor * (1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1))
        frequencies = frequencies * kept + frequencies / rope.factor * (1 - kept)
        # llama.cpp leaves the magnitude alone when nothing is extrapolated.
        magnitude *= 1 + 0.1 * np.log(rope.factor) if rope.extrapolation_factor else 1
    angles = np.arange(positions)[:, None] * frequencies
    return magnitude * np.cos(angles), magnitude * np.sin(angles)


def correction_pair(rope: Rope, rotations: float) -> float:
    """Return the (fractional) pair that turns `rotations` times over the original context."""
    wavelengths = np.log(rope.original_context / (2 * np.pi * rotations))
    return float(rope.dimensions * wavelengths / (2 * np.log(rope.base)))


def rotate(x: Floats, cos_sin: tuple[Floats, Floats], rope: Rope) -> Floats:
    """Rotate the pairs of x [T, heads, K]: (i, i + dimensions / 2) in neox style, (2i, 2i + 1) in norm style."""
    cos, sin = (part[:, None, :].astype(x.dtype) for part in cos_sin)
    half = rope.dimensions // 2
    neox = rope.style == "neox"
    first = slice(0, half) if neox else slice(0, rope.dimensions, 2)
    second = slice(half, rope.dimensions) if neox else slice(1, rope.dimensions, 2)
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def router_gaps(result: ForwardResult, active: int, reduction: ExpertReduction = ALL_EXPERTS) -> Floats:
    """Return per position how near, in logits and in any layer, another choice of experts is: [T].

    It is the gap between the last chosen expert and the next, or between an expert and the threshold that it keeps.
    """
    _, positions, experts = result.router_logits.shape
    ordered = np.sort(result.router_logits, axis=-1)[..., ::-1]
    gaps = np.full(positions, np.inf)
    if experts > active:
        gaps = (ordered[..., active - 1] - ordered[..., active]).min(axis=0)
    if reduction.threshold and reduction.fewest < active:
        limit = ordered[..., :1] + np.log(reduction.threshold)
        others = np.abs(ordered[..., max(reduction.fewest, 1) : active] - limit)
        gaps = np.minimum(gaps, others.min(axis=(0, 2)))
    return np.asarray(gaps)


def wide_gap_tokens(model: Forward, count: int, least_gap: float = 0.25, seed: int = 0) -> list[int]:
    """Find random tokens whose router gaps are all at least `least_gap`: rounding then flips no expert.

    A position's gaps depend on no later token, so the first narrow one is redrawn until none is left.
    """
    random = np.random.default_rng(seed)
    tokens = [int(token) for token in random.integers(0, model.spec.vocabulary, count)]
    for _ in range(20 * count):
        narrow = np.flatnonzero(router_gaps(model(tokens), model.spec.active_experts, model.experts) < least_gap)
        if not narrow.size:
            return tokens
        tokens[narrow[0]] = int(random.integers(0, model.spec.vocabulary))
    raise ValueError(f"no {count} tokens with router gaps of {least_gap} found; widen the router's weights")
