"""Rotary position embedding (Su et al. 2021) of one head, and the table of its cosines and sines.

The table is the same wherever it is made: NumPy's and libm's functions depend on the CPU and the version in their last
bits, which showed from position 17,727 of Qwen3's context on. Frequencies are few, and come of decimal arithmetic.
Angles are counted in 2**-64 turns, where a product with a position is exact and whole turns fall off by themselves;
what is left of a quarter turn goes through the series of sine and cosine.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.arithmetic import add, mul, sub
from numoe.kernels.cpu.jit import compile_for, kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16

_DIGITS = 50
_TURN = 2 * Decimal("3.1415926535897932384626433832795028841971693993751058209749")
_RADIANS = 2 * math.pi / 2.0**64  # of 2**-64 turns
# Of x**3, x**5, ... and of x**2, x**4, ...: what follows is below 1e-17 up to an eighth of a turn.
_SINE = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(1, 9))
_COSINE = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(1, 9))


def _frequencies(
    dimensions: int,
    base: float,
    scaling: str,
    factor: float,
    original_context: int,
    extrapolation_factor: float,
    beta_fast: float,
    beta_slow: float,
) -> list[Decimal]:  # [dimensions / 2] radians per position
    """base^(-2i/dimensions), stretched."""
    log_base, stretch = Decimal(base).ln(), Decimal(factor)
    frequencies = [(log_base * -2 * pair / dimensions).exp() for pair in range(dimensions // 2)]
    if scaling == "linear":
        return [frequency / stretch for frequency in frequencies]
    if scaling != "yarn":
        return frequencies

    def turns(beta: float) -> Decimal:
        """The pair that makes `beta` full turns over the original context."""
        return dimensions * (original_context / (Decimal(beta) * _TURN)).ln() / (2 * log_base)

    low, high = max(0, math.floor(turns(beta_fast))), min(dimensions - 1, math.ceil(turns(beta_slow)))
    width, kept = max(Decimal("0.001"), Decimal(high - low)), Decimal(extrapolation_factor)
    mixes = [(1 - min(max((pair - low) / width, Decimal(0)), Decimal(1))) * kept for pair in range(dimensions // 2)]
    return [one / stretch * (1 - mix) + one * mix for one, mix in zip(frequencies, mixes, strict=True)]


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

    Before the one rounding to float32 the error is below 2**-42 up to a million positions.
    """
    magnitude = 1.0
    with localcontext() as context:
        context.prec = _DIGITS
        frequencies = _frequencies(
            dimensions, base, scaling, factor, original_context, extrapolation_factor, beta_fast, beta_slow
        )
        steps = [int((one / _TURN * 2**64).to_integral_value()) % 2**64 for one in frequencies]
        if scaling == "yarn":
            stretched = 1 + Decimal(factor).ln() / 10 if extrapolation_factor != 0.0 else Decimal(1)
            magnitude = float(Decimal(attention_factor) * stretched)
    table = np.empty((positions, dimensions), np.float32)
    _fill(table, np.array(steps, np.uint64), magnitude)
    return table


def compile_rope_table() -> None:
    """Compile what `rope_table` runs, and run nothing."""
    compile_for(_fill, np.zeros((1, 2), np.float32), np.zeros(1, np.uint64), 1.0)


@kernel
def _fill(
    table: NDArray[np.float32],  # [positions, dimensions], written
    steps: NDArray[np.uint64],  # [dimensions / 2] 2**-64 turns per position
    magnitude: float,
) -> None:
    """Cosines, then sines, of position * step, times the magnitude."""
    pairs = steps.shape[0]
    for position in range(table.shape[0]):
        for pair in range(pairs):
            turns = np.uint64(position) * steps[pair]
            quarter = (turns + np.uint64(1 << 61)) >> np.uint64(62)
            x = np.float64(np.int64(turns - (quarter << np.uint64(62)))) * _RADIANS
            square, sine, cosine = x * x, 0.0, 0.0
            for term in range(len(_SINE) - 1, -1, -1):
                sine = (sine + _SINE[term]) * square
                cosine = (cosine + _COSINE[term]) * square
            sine, cosine = x + x * sine, 1.0 + cosine
            if quarter & np.uint64(1):
                sine, cosine = cosine, -sine
            if quarter & np.uint64(2):
                sine, cosine = -sine, -cosine
            table[position, pair] = np.float32(cosine * magnitude)
            table[position, pairs + pair] = np.float32(sine * magnitude)


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
