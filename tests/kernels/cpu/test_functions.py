"""exp and silu keep the accuracy and the exact values that they promise."""

from __future__ import annotations

import ast
from decimal import Decimal

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.cpu.functions import exp, log
from numoe.kernels.cpu.jit import KERNELS
from tests.kernels import reference
from tests.kernels.numeric import UNIT, assert_within, gamma
from tests.kernels.vector_maps import map_exp, map_silu

STRIDE = 499  # of all float32 in the range, every 499th: some millions


def floats_between(least: float, most: float) -> NDArray[np.float32]:
    """Float32 of one sign, evenly many per power of two, a multiple of 16 of them."""
    first, last = sorted(int(np.float32(end).view(np.uint32)) for end in (least, most))
    bits = np.append(np.arange(first, last, STRIDE), last).astype(np.uint32)
    return np.resize(bits, -(-len(bits) // 16) * 16).view(np.float32)


@pytest.mark.parametrize(("least", "most"), [(0.0, 88.0), (-0.0, -87.0)])
def test_exp_is_within_two_units_in_the_last_place(least: float, most: float) -> None:
    x = floats_between(least, most)
    out = np.empty_like(x)
    map_exp(out, x)
    expected = reference.exp(x.astype(np.float64))
    assert_within(out, expected, 2 * np.spacing(expected.astype(np.float32)).astype(np.float64))


def test_exp_has_the_exact_values_that_attention_relies_on() -> None:
    assert exp(np.float32(0.0)) == 1.0
    assert exp(np.float32(-0.0)) == 1.0
    assert exp(np.float32(-np.inf)) == 0.0
    assert exp(np.nextafter(np.float32(-87.0), np.float32(-88.0))) == 0.0
    assert exp(np.float32(-3e38)) == 0.0
    assert exp(np.float32(-87.0)) > 0.0


def test_exp_stays_finite_for_large_arguments() -> None:
    largest = exp(np.float32(88.0))
    assert exp(np.float32(1e30)) == exp(np.float32(np.inf)) == largest
    assert np.isfinite(largest)


def test_what_is_no_number_stays_none() -> None:
    """Lest a softmax over it look like any other."""
    for function in (map_exp, map_silu):
        x, out = np.ones(16, np.float32), np.empty(16, np.float32)
        x[5] = np.nan
        function(out, x)
        assert np.flatnonzero(np.isnan(out)).tolist() == [5]


@pytest.mark.parametrize(("least", "most"), [(0.0, 1e4), (-0.0, -87.0)])
def test_silu_equals_its_twin(least: float, most: float) -> None:
    """exp is within 2 units (4 roundings), then a sum and a quotient: 6 roundings, none of which cancels.

    Above 87 the smallest exponentials are 0 where they should be below 2**-125: far below the rounding of 1.
    """
    x = floats_between(least, most)
    out = np.empty_like(x)
    map_silu(out, x)
    expected = reference.silu(x.astype(np.float64))
    smallest = 2.0**-126 * UNIT  # where results are subnormal, rounding is absolute
    assert_within(out, expected, gamma(6) * np.abs(expected) + 2 * smallest)


def test_silu_of_very_negative_numbers_vanishes() -> None:
    x = np.full(16, -1e4, np.float32)
    out = np.empty_like(x)
    map_silu(out, x)
    assert np.all(np.abs(out) < 1e-33)


def test_log_is_within_three_units_in_the_last_place() -> None:
    """Of float64, and exact where the result is."""
    near_one = 1.0 + np.linspace(-0.6, 1.2, 1001)
    for x in [*near_one, *2.0 ** np.linspace(-149, 128, 1001), 2.0**0.5, 0.5**0.5]:
        expected = Decimal(float(x)).ln()
        assert abs(Decimal(log(float(x))) - expected) <= Decimal(3 * np.spacing(abs(float(expected))))
    assert log(1.0) == 0.0


def test_no_kernel_takes_a_function_whose_bits_depend_on_a_library() -> None:
    """What libm and NumPy give in the last place depends on their versions and the CPU; square roots do not."""
    inexact = {"exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "power", "float_power", "cbrt", "hypot"}
    inexact |= {
        prefix + name + end for name in ("sin", "cos", "tan") for prefix in ("", "arc", "a") for end in ("", "h")
    }
    inexact |= {"sum", "mean", "dot", "matmul", "einsum", "logaddexp"}  # added in an order of NumPy's choice
    used = {
        f"{path.name}: {node.value.id}.{node.attr}"
        for path in sorted(KERNELS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("np", "math")
        if node.attr in inexact
    }
    assert used == set()
