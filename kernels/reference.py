"""Naive twins of the kernels: the formulae as their papers print them, in NumPy, mostly float64, slow and plain.

A twin has its kernel's name and parameters, with arrays in place of addresses and, where it computes in float64, the
result returned rather than written. Tests hold every kernel to its twin within a tolerance derived from the number of
operations; what only moves or counts must be equal. Nothing here is compiled, and nothing but tests imports it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Singles = NDArray[np.float32]
Bytes = NDArray[np.uint8]

ROWS, BLOCK = 16, 32  # of a panel; along the input


# Packing (formats.py).


def pack_words(
    panels: NDArray[Any],  # [ceil(rows / 16), values, 16], written
    rows: NDArray[Any],  # [rows, values]
) -> None:
    """Twin of pack_16_bit and pack_32_bit: 16 rows side by side, zeros past the last."""
    padded = np.zeros((panels.shape[0] * ROWS, rows.shape[1]), rows.dtype)
    padded[: len(rows)] = rows
    panels[:] = padded.reshape(-1, ROWS, rows.shape[1]).transpose(0, 2, 1)


def pack_q8_0(
    panels: Bytes,  # [ceil(rows / 16), blocks, 544], written
    rows: Bytes,  # [rows, blocks * 34]
) -> None:
    """Scales of 16 rows, then their values four at a time, plus 128: that flips the top bit of a signed byte."""
    count, blocks, _ = panels.shape
    padded = np.zeros((count * ROWS, blocks * 34), np.uint8)
    padded[: len(rows)] = rows
    split = padded.reshape(count, ROWS, blocks, 34)
    panels[:, :, :32] = split[..., :2].transpose(0, 2, 1, 3).reshape(count, blocks, 32)
    fours = (split[..., 2:] ^ 0x80).reshape(count, ROWS, blocks, 8, 4)
    panels[:, :, 32:] = fours.transpose(0, 2, 3, 1, 4).reshape(count, blocks, 512)


def unpack(name: str, panels: Bytes) -> Reals:
    """The values [panels * 16, blocks * 32] that panels [panels, blocks, bytes] of format `name` stand for, exactly."""
    count, blocks, size = panels.shape
    if name == "Q8_0":
        scales = panels[:, :, :32].copy().view(np.float16).astype(np.float64)  # [panels, blocks, 16]
        fours = panels[:, :, 32:].reshape(count, blocks, 8, ROWS, 4).astype(np.float64) - 128
        values = fours.transpose(0, 1, 3, 2, 4).reshape(count, blocks, ROWS, BLOCK) * scales[..., None]
        return np.ascontiguousarray(values.transpose(0, 2, 1, 3)).reshape(count * ROWS, blocks * BLOCK)
    values = as_reals(name, panels.reshape(count, blocks * size)).reshape(count, blocks * BLOCK, ROWS)
    return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(count * ROWS, blocks * BLOCK)


def as_reals(name: str, stored: Bytes) -> Reals:
    """Floats of format `name` from their bytes; a bfloat16 is the upper half of a float32."""
    if name == "BF16":
        return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.view({"F32": np.float32, "F16": np.float16}[name]).astype(np.float64)


def embed_row(row: Bytes, name: str) -> Reals:  # [D]
    """One row of the file in format `name`."""
    if name == "Q8_0":
        blocks = row.reshape(-1, 34)
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float64)  # [blocks, 1]
        return (blocks[:, 2:].view(np.int8) * scales).reshape(-1)
    return as_reals(name, row)


# Activations and tiles (activations.py, tiles.py).


def write_integer_column(group: Bytes, columns: int, column: int, x: Singles, blocks: int) -> None:
    """Round x [blocks * 32] to signed bytes, 127 for a block's largest, as one column of an integer group."""
    fields = group.reshape(blocks, columns * 40)
    for block, values in enumerate(x.reshape(blocks, BLOCK)):
        largest = np.abs(values).max()
        rounded = np.zeros(BLOCK, np.float32)
        if largest > np.float32(1e-30):
            rounded = np.rint(values * (np.float32(127) / largest))
        fields[block, 32 * column : 32 * column + 32] = rounded.astype(np.int8).view(np.uint8)
        scales, sums = np.split(fields[block, 32 * columns :], 2)
        scales.view(np.float32)[column] = largest / np.float32(127)
        sums.view(np.int32)[column] = -128 * int(rounded.sum())


def write_float_column(group: Singles, columns: int, column: int, x: Singles, blocks: int) -> None:
    """Put x [blocks * 32] into one column of a float group."""
    group.reshape(blocks, columns, BLOCK)[:, column] = x.reshape(blocks, BLOCK)


def integer_columns(group: Bytes, columns: int, blocks: int) -> Reals:  # [columns, blocks * 32]
    """The values that an integer group stands for."""
    fields = group.reshape(blocks, columns * 40)
    values = fields[:, : 32 * columns].copy().view(np.int8).reshape(blocks, columns, BLOCK)
    scales = fields[:, 32 * columns : 36 * columns].copy().view(np.float32).astype(np.float64)
    return (values * scales[..., None]).transpose(1, 0, 2).reshape(columns, -1)


def tile(panel: Reals, group: Reals) -> Reals:  # [C, 16]
    """Rows [16, n] times columns [C, n]."""
    return group @ panel.T


def rms_norm(x: Reals, weight: Reals, epsilon: float) -> Reals:
    """Zhang & Sennrich 2019, equation 4, with epsilon under the root as in Llama."""
    return x / np.sqrt(np.mean(x * x) + epsilon) * weight


def exp(x: Reals) -> Reals:
    """e**x, 0 below -87."""
    return np.where(x < -87, 0.0, np.exp(np.maximum(x, -87.0)))


def silu(x: Reals) -> Reals:
    """Hendrycks & Gimpel 2016 (as sigmoid-weighted linear unit: Elfwing et al. 2017): x * sigmoid(x)."""
    return x / (1 + np.exp(-x))


# Attention and rotation (attention.py, rope.py).


def rope_table(
    positions: int,
    dimensions: int,
    base: float,
    scaling: str = "none",
    factor: float = 1.0,
    original_context: int = 0,
    attention_factor: float = 1.0,
    extrapolation_factor: float = 1.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> Reals:  # [positions, dimensions] cosines, then sines
    """Su et al. 2021, section 3.2.2; Peng et al. 2023, sections 3.1 (linear) and 3.2 with 3.4 (YaRN).

    YaRN keeps the angles of pairs that turn more than beta_fast times over the original context, divides those that
    turn less than beta_slow times, and blends between; as in its authors' code, linearly over the number of the pair.
    """
    table = np.zeros((positions, dimensions))
    for pair in range(dimensions // 2):
        frequency, magnitude = base ** (-2 * pair / dimensions), 1.0
        if scaling == "linear":
            frequency /= factor
        if scaling == "yarn":
            # A pair makes context * base^(-2 pair / dimensions) / (2 pi) turns; solved for the pair:
            first, last = (
                dimensions / 2 * math.log(original_context / (2 * math.pi * turns), base)
                for turns in (beta_fast, beta_slow)
            )
            first, last = max(math.floor(first), 0), min(math.ceil(last), dimensions - 1)
            blended = min(max((pair - first) / max(last - first, 0.001), 0.0), 1.0)
            kept = (1 - blended) * extrapolation_factor
            frequency = frequency * kept + frequency / factor * (1 - kept)
            magnitude = attention_factor * (1 + 0.1 * math.log(factor) if extrapolation_factor else 1.0)
        for position in range(positions):
            table[position, pair] = magnitude * math.cos(position * frequency)
            table[position, dimensions // 2 + pair] = magnitude * math.sin(position * frequency)
    return table


def rotate(head: Reals, angles: Reals, rotated: int, neox: int) -> Reals:
    """Su et al. 2021, equation 12: pairs as complex numbers, multiplied by e^(i angle)."""
    turn = angles[: rotated // 2] + 1j * angles[rotated // 2 : rotated]
    real = np.arange(rotated // 2) if neox else np.arange(0, rotated, 2)
    imaginary = real + (rotated // 2 if neox else 1)
    product = (head[real] + 1j * head[imaginary]) * turn
    out = head.copy()
    out[real], out[imaginary] = product.real, product.imag
    return out


def attend(
    queries: Reals,  # [used, K]
    keys: Reals,  # [positions seen, K]
    values: Reals,  # [positions seen, K]
) -> Reals:  # [used, K]
    """Vaswani et al. 2017, equation 1; the queries are already divided by sqrt(K)."""
    scores = queries @ keys.T
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ values


# The router (router.py).


def choose_experts(logits: Reals, active: int) -> tuple[NDArray[np.intp], Reals]:  # [A] experts, [A] shares
    """Softmax over all experts, the most probable (the lower of equals), divided by their sum (Qwen3, Mixtral)."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    chosen = np.argsort(-probabilities, kind="stable")[:active]
    return chosen, probabilities[chosen] / max(probabilities[chosen].sum(), 2.0**-14)


def group_by_expert(chosen: NDArray[np.int32]) -> dict[int, list[int]]:
    """The tokens of each active expert, in order; `chosen` is [T, A]."""
    experts = sorted({int(expert) for expert in chosen.flat})
    return {expert: [token for token, row in enumerate(chosen) if expert in row] for expert in experts}


# Drawing (sampling.py).


def uniform(seed: int, position: int) -> float:
    """splitmix64 (Steele et al. 2014) of the seed xor the position, then of that result xor the golden ratio."""
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    value = seed
    for word in (position, golden):
        value = ((value ^ word) + golden) & mask
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
        value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
        value ^= value >> 31
    return (value >> 11) / 2.0**53


def log_sum_exp(logits: Reals) -> float:
    """log(sum(exp(logits)))"""
    return float(np.logaddexp.reduce(logits))


def penalise(logits: Reals, sample: Any, seen_tokens: NDArray[np.int32], seen_counts: NDArray[np.int32]) -> Reals:
    """Keskar et al. 2019, equation 2, without temperature; then what the OpenAI API calls frequency and presence."""
    out = logits.copy()
    first, last = sample["first_seen"], sample["first_seen"] + sample["seen"]
    for token, count in zip(seen_tokens[first:last], seen_counts[first:last], strict=True):
        penalty = float(sample["repetition_penalty"])
        out[token] *= penalty if out[token] < 0 else 1 / penalty
        out[token] -= count * float(sample["frequency_penalty"]) + (count > 0) * float(sample["presence_penalty"])
    return out


def candidates(logits: Reals, sample: Any) -> tuple[NDArray[np.intp], Reals]:
    """The ids that may be drawn, in the order of drawing, and their probabilities; temperature 0 leaves one.

    Top-k (Fan et al. 2018), top-p of what that leaves (Holtzman et al. 2020), min-p (Nguyen et al. 2024).
    """
    order = np.argsort(-logits, kind="stable")
    if sample["temperature"] == 0:
        return order[:1], np.ones(1)
    filtered = sample["top_k"] > 0 or sample["top_p"] < 1 or sample["min_p"] > 0
    ids = order if filtered else np.arange(len(logits))
    weights = np.exp((logits[ids] - logits.max()) / float(sample["temperature"]))
    if sample["top_k"] > 0:
        ids, weights = ids[: sample["top_k"]], weights[: sample["top_k"]]
    if filtered:
        before = np.cumsum(weights) - weights  # the mass of better candidates
        kept = (before < float(sample["top_p"]) * weights.sum()) | (sample["top_p"] >= 1)
        kept = (kept & (weights >= float(sample["min_p"]))) | (before == 0)
        ids, weights = ids[kept], weights[kept]
    return ids, weights / weights.sum()


def draw(logits: Reals, sample: Any) -> int:
    """The first candidate at which the running sum of probabilities passes the random number."""
    ids, probabilities = candidates(logits, sample)
    random = uniform(int(sample["seed"]), int(sample["position"]))
    rank = int(np.searchsorted(np.cumsum(probabilities), random, side="right"))
    return int(ids[min(rank, len(ids) - 1)])
