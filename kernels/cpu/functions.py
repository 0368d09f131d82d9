"""exp and silu on vectors and log, the same bits on every CPU.

exp follows Cephes (Moshier): x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial of degree 6 in r, times 2**n. Its error is
below 2 units in the last place; exp(0) is exactly 1 and anything below -87 is exactly 0, which attention relies on.

log brings x into 2**-0.5 .. 2**0.5 and takes the series of the inverse hyperbolic tangent.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numoe.kernels.cpu.arithmetic import (
    add,
    div,
    first_lane,
    fma,
    maximum,
    round_even,
    scale_by_power,
    splat,
    sub,
    where_less,
)
from numoe.kernels.cpu.jit import kernel

_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH = np.float32(-0.693359375)  # ln 2 in two pieces, so that n * high is exact
_LN2_LOW = np.float32(2.12194440e-4)
_C2, _C3, _C4 = np.float32(5.0000001201e-1), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
_C5, _C6, _C7 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
_LEAST, _MOST = np.float32(-87.0), np.float32(88.0)
_LN2, _LN2_REST = 0.6931471805598903, 5.497923018708371e-14  # ln 2 in two pieces: n * the first is exact
_ROOT_HALF = 0.7071067811865476
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@kernel
def exp_vector(x: Any) -> Any:
    """e**x; 0 below -87, and at most e**88 (1.65e38); NaN where x is, by the order of what is compared."""
    low = maximum(splat(_LEAST), x)
    bounded = where_less(splat(_MOST), low, splat(_MOST), low)
    n = round_even(fma(bounded, splat(_LOG2_E), splat(_ZERO)))
    r = fma(n, splat(_LN2_LOW), fma(n, splat(_LN2_HIGH), bounded))
    p = fma(splat(_C7), r, splat(_C6))
    p = fma(p, r, splat(_C5))
    p = fma(p, r, splat(_C4))
    p = fma(p, r, splat(_C3))
    p = fma(p, r, splat(_C2))
    value = scale_by_power(add(fma(p, fma(r, r, splat(_ZERO)), r), splat(_ONE)), n)
    return where_less(x, splat(_LEAST), splat(_ZERO), value)


@kernel
def exp(x: np.float32) -> np.float32:
    """e**x of one float32."""
    return first_lane(exp_vector(splat(np.float32(x))))


@kernel
def silu_vector(x: Any) -> Any:
    """x / (1 + e**-x)"""
    return div(x, add(splat(_ONE), exp_vector(sub(splat(_ZERO), x))))


@kernel
def log(x: float) -> float:
    """The natural logarithm of a positive, finite float64."""
    mantissa, exponent = math.frexp(x)
    if mantissa < _ROOT_HALF:
        mantissa, exponent = 2.0 * mantissa, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square, series = s * s, 0.0
    for odd in range(23, 1, -2):
        series = (series + 1.0 / odd) * square
    n = np.float64(exponent)
    return n * _LN2 + (2.0 * s + (2.0 * s * series + n * _LN2_REST))
