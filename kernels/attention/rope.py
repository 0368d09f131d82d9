"""Rotary position embedding (Su et al. 2021) of one head, and the table of its cosines and sines."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import add, mul, sub
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16


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
) -> NDArray[np.float32]:  # [positions, dimensions]: cosines of the pairs, then their sines
    """Angles position * base^(-2i/dimensions), stretched by linear scaling or YaRN (Peng et al. 2023, "by parts").

    Computed in float64 and rounded once, so the table is the same wherever it is made.
    """
    pairs = np.arange(dimensions // 2, dtype=np.float64)
    frequencies = base ** (-2.0 * pairs / dimensions)
    magnitude = 1.0
    if scaling == "linear":
        frequencies = frequencies / factor
    elif scaling == "yarn":

        def turns(beta: float) -> float:
            """The pair that makes `beta` full turns over the original context."""
            return dimensions * math.log(original_context / (beta * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(0, math.floor(turns(beta_fast))), min(dimensions - 1, math.ceil(turns(beta_slow)))
        ramp = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
        mix = ramp * extrapolation_factor
        frequencies = frequencies / factor * (1.0 - mix) + frequencies * mix
        magnitude = attention_factor * (1.0 + 0.1 * math.log(factor) if extrapolation_factor != 0.0 else 1.0)
    angles = np.arange(positions, dtype=np.float64)[:, None] * frequencies
    return np.concatenate([np.cos(angles) * magnitude, np.sin(angles) * magnitude], axis=1).astype(np.float32)


@kernel
def rotate(
    head: NDArray[np.float32],  # [K], rotated in place
    angles: NDArray[np.float32],  # [rotated] cosines then sines
    rotated: int,
    neox: int,
) -> None:
    """Turn each pair by its angle; values past `rotated` stay."""
    half = rotated // 2
    if neox:
        _rotate_halves(head.ctypes.data, angles.ctypes.data, half)
        return
    for pair in range(half):
        cosine, sine = angles[pair], angles[half + pair]
        x, y = head[2 * pair], head[2 * pair + 1]
        head[2 * pair] = x * cosine - y * sine
        head[2 * pair + 1] = x * sine + y * cosine


@kernel
def _rotate_halves(head: int, angles: int, half: int) -> None:
    """Pairs (i, i + half), 16 at a time."""
    for pair in range(0, half, 16):
        cosine, sine = load_f32x16(angles + 4 * pair), load_f32x16(angles + 4 * (half + pair))
        x, y = load_f32x16(head + 4 * pair), load_f32x16(head + 4 * (half + pair))
        store_f32x16(head + 4 * pair, sub(mul(x, cosine), mul(y, sine)))
        store_f32x16(head + 4 * (half + pair), add(mul(x, sine), mul(y, cosine)))
