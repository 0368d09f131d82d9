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

from numoe.kernels.experts.router import NOT_RUN
from numoe.kernels.matmul.groups import INTEGER_BYTES
from numoe.kernels.weights.formats import BLOCK

Reals = NDArray[np.float64]
Singles = NDArray[np.float32]
Bytes = NDArray[np.uint8]

Integers = NDArray[np.int64]

CONSIDERED = 512  # candidates, by filters.py


# Activations and tiles (activations.py, vectors.py, tiles.py). `gguf.dequantize` says what rows of a format mean.


def round_blocks(x: Singles) -> tuple[Integers, Singles]:  # [blocks, 32], [blocks]
    """Each block of x in steps of a 127th of its largest value: the numbers of steps, and the step."""
    blocks = x.reshape(-1, BLOCK)
    largest = np.abs(blocks).max(axis=1)
    inverse = np.zeros_like(largest)
    np.divide(np.float32(127), largest, out=inverse, where=largest > np.float32(1e-30))
    return np.rint(blocks * inverse[:, None]).astype(np.int64), largest / np.float32(127)


def write_integer_column(group: Bytes, columns: int, column: int, x: Singles, blocks: int) -> None:
    """Put x [blocks * 32], rounded, into one column of an integer group."""
    put_integer_column(group, columns, column, *round_blocks(x))
    assert group.size == blocks * columns * INTEGER_BYTES


def put_integer_column(group: Bytes, columns: int, column: int, rounded: Integers, scales: Singles) -> None:
    """Put whole numbers [blocks, 32] of these scales [blocks] into one column of an integer group."""
    values, *fields = _integer_fields(group, columns, len(rounded))
    values[:, column] = rounded
    halves = rounded.reshape(-1, 2, BLOCK // 2).sum(axis=2)
    for field, value in zip(fields, (scales, halves.sum(axis=1), -128 * halves.sum(axis=1), halves), strict=True):
        field[:, column] = value


def _integer_fields(group: Bytes, columns: int, blocks: int) -> list[NDArray[Any]]:
    """An integer group as [blocks, columns, 32] values and [blocks, columns] scale, sum, -128 * sum, halves' sums."""
    drawing = np.dtype(
        [
            ("values", np.int8, BLOCK),
            ("scale", np.float32),
            ("sum", np.float32),
            ("sum_128", np.int32),
            ("halves", np.int16, 2),
        ]
    )
    assert drawing.itemsize == INTEGER_BYTES
    records = group.view(drawing).reshape(blocks, columns)
    return [records[name] for name in drawing.names or ()]


def rounded_columns(group: Bytes, columns: int, blocks: int) -> tuple[Integers, Singles]:
    """The whole numbers [C, blocks, 32] that an integer group holds, and their scales [C, blocks]."""
    values, scales, *_ = _integer_fields(group, columns, blocks)
    return values.swapaxes(0, 1).astype(np.int64), scales.T.copy()


def integer_columns(group: Bytes, columns: int, blocks: int) -> Reals:  # [columns, blocks * 32]
    """The values that an integer group stands for."""
    rounded, scales = rounded_columns(group, columns, blocks)
    values = rounded.astype(np.float64) * scales[..., None].astype(np.float64)
    return values.reshape(columns, -1)


def write_float_column(group: Singles, columns: int, column: int, x: Singles, blocks: int) -> None:
    """Put x [blocks * 32] into one column of a float group."""
    group.reshape(blocks, columns, BLOCK)[:, column] = x.reshape(blocks, BLOCK)


def float_columns(group: Singles, columns: int, blocks: int) -> Reals:  # [columns, blocks * 32]
    """The values that a float group holds."""
    return group.reshape(blocks, columns, BLOCK).swapaxes(0, 1).reshape(columns, -1).astype(np.float64)


def tile(rows: Reals, columns: Reals) -> Reals:  # [C, 16]
    """Dequantised rows [16, n] times dequantised columns [C, n]."""
    return columns @ rows.T


def rms_norm(x: Reals, weight: Reals, epsilon: float) -> Reals:
    """Zhang & Sennrich 2019, equation 4, with epsilon under the root as in Llama."""
    normed: Reals = x / np.sqrt(np.mean(x * x) + epsilon) * weight
    return normed


def exp(x: Reals) -> Reals:
    """e**x, 0 below -87."""
    return np.where(x < -87, 0.0, np.exp(np.maximum(x, -87.0)))


def silu(x: Reals) -> Reals:
    """Hendrycks & Gimpel 2016 (as sigmoid-weighted linear unit: Elfwing et al. 2017): x * sigmoid(x)."""
    y: Reals = x / (1 + np.exp(-x))
    return y


# Attention and rotation (heads.py, rope.py).


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
    mixed: Reals = weights / weights.sum(axis=1, keepdims=True) @ values
    return mixed


# The router (router.py, grouping.py).


def choose_experts(logits: Reals, active: int) -> tuple[NDArray[np.intp], Reals]:  # [A] experts, [A] shares
    """Softmax over all experts, the most probable (the lower of equals), divided by their sum (Qwen3, Mixtral)."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    chosen = np.argsort(-probabilities, kind="stable")[:active]
    return chosen, probabilities[chosen] / max(probabilities[chosen].sum(), 2.0**-14)


def group_by_expert(chosen: NDArray[np.int32]) -> dict[int, list[int]]:
    """The tokens of each active expert, in order; `chosen` is [T, A]."""
    experts = sorted({int(expert) for expert in chosen.flat} - {NOT_RUN})
    return {expert: [token for token, row in enumerate(chosen) if expert in row] for expert in experts}


# Drawing (sampling.py, candidates.py).


def uniform(seed: int, position: int) -> float:
    """splitmix64 (Steele et al. 2014) of the seed, then of that result xor the position."""
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    value = seed
    for word in (0, position):
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


def allow_only(logits: Reals, allowed: NDArray[np.bool_]) -> Reals:
    """What is not allowed is impossible."""
    return np.where(allowed, logits, -np.inf)


def alternatives(logits: Reals, count: int) -> tuple[NDArray[np.intp], Reals]:
    """The likeliest tokens, best first, the lowest id first among equals, and their log-probabilities."""
    tokens = np.argsort(-logits, kind="stable")[:count]
    return tokens, logits[tokens] - log_sum_exp(logits)


def candidates(logits: Reals, sample: Any) -> tuple[NDArray[np.intp], Reals]:
    """The ids that may be drawn, in the order of drawing, and their probabilities; temperature 0 leaves one.

    Top-k (Fan et al. 2018), top-p of what that leaves (Holtzman et al. 2020), min-p (Nguyen et al. 2024). The others:
    see `filtered`.
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
        ids, weights = ids[np.argsort(ids)], weights[np.argsort(ids)]
    return ids, weights / weights.sum()


def keep_sigmas(logits: Reals, sigmas: float) -> Reals:
    """Tang et al. 2024: what lies more standard deviations below the largest is impossible."""
    possible = logits[np.isfinite(logits)]
    return np.where(logits < possible.max() - sigmas * possible.std(), -np.inf, logits)


def filtered(logits: Reals, sample: Any, *, xtc: bool) -> tuple[NDArray[np.intp], Reals]:
    """As `candidates`, with all filters, of which each sees what those before it leave; `xtc`: whether chance has it.

    Typical-p: Meister et al. 2022. XTC: of candidates that reach the threshold, the least likely one stays.
    """
    temperature, last = float(sample["temperature"]), bool(sample["temperature_last"])
    order = np.argsort(-logits, kind="stable")
    ids = order[: min(sample["top_k"] or CONSIDERED, CONSIDERED)]
    weights = np.exp((logits[ids] - logits.max()) / (1.0 if last else temperature))
    ids, weights = ids[weights > 0], weights[weights > 0]

    def keep(chosen: NDArray[np.intp] | NDArray[np.bool_]) -> None:
        nonlocal ids, weights
        ids, weights = ids[chosen], weights[chosen]

    if sample["typical_p"] < 1:
        by_id = np.argsort(ids)
        keep(by_id)
        shares = weights / weights.sum()
        distances = np.abs(-np.log(shares) - (shares * -np.log(shares)).sum())
        nearest = np.argsort(distances, kind="stable")
        needed = int(np.searchsorted(np.cumsum(shares[nearest]), float(sample["typical_p"]))) + 1
        keep(nearest[:needed])
        keep(np.lexsort((ids, -weights)))
    if sample["top_p"] < 1:
        keep(np.cumsum(weights) - weights < float(sample["top_p"]) * weights.sum())
    keep(weights >= float(sample["min_p"]) * weights.max())
    likely = int((weights >= float(sample["xtc_threshold"]) * weights.sum()).sum())
    if xtc and likely >= 2:
        keep(np.arange(likely - 1, len(weights)))
    if last:
        weights = np.exp(np.log(weights / weights.max()) / temperature)
    keep(np.argsort(ids))
    return ids, weights / weights.sum()


def draw(logits: Reals, sample: Any) -> int:
    """The first candidate at which the running sum of probabilities passes the random number."""
    ids, probabilities = candidates(logits, sample)
    random = uniform(int(sample["seed"]), int(sample["position"]))
    rank = int(np.searchsorted(np.cumsum(probabilities), random, side="right"))
    return int(ids[min(rank, len(ids) - 1)])
