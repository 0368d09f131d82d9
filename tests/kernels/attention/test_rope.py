"""Rotation tables and rotations equal their twins, in both styles and all scalings."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numoe.kernels.attention.rope import rope_table, rotate
from tests.kernels import reference
from tests.kernels.numeric import SEED, UNIT, assert_within, gamma

# What hash_of_tables gives anywhere. Another value means that answers past some position change.
TABLES = "c3cdd5d96fcf954143db020a818caffef6e35109de5b414a05ac20e45b189f6e"
SCALINGS: list[dict[str, Any]] = [
    {},
    {"scaling": "linear", "factor": 4.0},
    {"scaling": "yarn", "factor": 4.0, "original_context": 32768},
    {"scaling": "yarn", "factor": 2.5, "original_context": 4096, "attention_factor": 0.9, "beta_fast": 16.0},
    {"scaling": "yarn", "factor": 4.0, "original_context": 32768, "extrapolation_factor": 0.0},
]


ROOT = Path(__file__).parents[3]
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def exact_cosine(angle: Decimal) -> Decimal:
    """The series, to 1e-30, of an angle brought into -pi .. pi."""
    rest = angle - (angle / (2 * PI)).to_integral_value() * 2 * PI
    total = term = Decimal(1)
    for n in range(2, 60, 2):
        term = -term * rest * rest / (n * (n - 1))
        total += term
    return total


@pytest.mark.parametrize(("positions", "dimensions"), [(1 << 20, 16), (1 << 15, 128)])
@pytest.mark.parametrize("base", [1e4, 5e5, 1e6, 1e7])
def test_the_table_is_the_exact_one_rounded_once_up_to_a_million_positions(
    base: float, positions: int, dimensions: int
) -> None:
    """To 2**-42 before that rounding: a million times half of 2**-64 turns, and some roundings of float64."""
    found, pairs = rope_table(positions, dimensions, base), (0, 1, 5, dimensions // 4, dimensions // 2 - 1)
    with localcontext() as context:
        context.prec = 50
        for position in (1, 2, 3, 17_727, *(positions // n for n in (7, 5, 3)), positions - 1):
            for pair in pairs:
                angle = position * Decimal(base) ** (Decimal(-2 * pair) / dimensions)
                for column, exact in ((pair, angle), (dimensions // 2 + pair, angle - PI / 2)):
                    expected = float(exact_cosine(exact))
                    bound = float(np.spacing(np.float32(abs(expected)))) / 2 + 2.0**-42
                    assert abs(float(found[position, column]) - expected) <= bound, (position, column)


def hash_of_tables() -> str:
    """Of Qwen3's whole context, of one stretched by YaRN and of a linear one."""
    digest = hashlib.sha256(rope_table(40_960, 128, 1e6).tobytes())
    digest.update(rope_table(8192, 128, 1e6, "yarn", 4.0, 32_768).tobytes())
    digest.update(rope_table(8192, 64, 1e4, "linear", 3.0).tobytes())
    return digest.hexdigest()


def test_the_table_is_the_same_on_every_cpu() -> None:
    """Here, and where NumPy and the kernels use no more than the oldest CPUs have: NumPy's cosines would differ."""
    features = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    program = "from tests.kernels.attention.test_rope import hash_of_tables; print(hash_of_tables())"
    plain = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMOE_ISA": "portable", "NPY_DISABLE_CPU_FEATURES": " ".join(features)},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert plain.stderr == ""
    assert hash_of_tables() == plain.stdout.strip() == TABLES


@pytest.mark.parametrize("options", SCALINGS)
@pytest.mark.parametrize(("dimensions", "base"), [(32, 1e4), (128, 1e6)])
def test_the_table_equals_its_twin(dimensions: int, base: float, options: dict[str, Any]) -> None:
    """Both compute in float64: they differ by a few roundings of the angle there, and by one to float32."""
    positions = 300
    found = rope_table(positions, dimensions, base, **options)
    expected = reference.rope_table(positions, dimensions, base, **options)
    assert found.dtype == np.float32
    angle_error = 8 * 2.0**-52 * positions
    assert_within(found, expected, (UNIT + angle_error) * 1.5)


def test_position_0_rotates_nothing() -> None:
    np.testing.assert_array_equal(rope_table(1, 64, 1e4)[0], [1.0] * 32 + [0.0] * 32)


def test_yarn_keeps_the_fastest_pair_and_stretches_the_slowest() -> None:
    plain, stretched = rope_table(9, 128, 1e6), rope_table(9, 128, 1e6, "yarn", 4.0, 32768)
    magnitude = 1 + 0.1 * np.log(4.0)
    np.testing.assert_allclose(stretched[:, 0], plain[:, 0] * magnitude, rtol=1e-6)
    np.testing.assert_allclose(stretched[8, 127], plain[2, 127] * magnitude, rtol=1e-6)


@pytest.mark.parametrize("neox", [0, 1])
@pytest.mark.parametrize(("size", "rotated"), [(32, 32), (128, 128), (128, 64)])
def test_a_rotation_equals_its_twin(size: int, rotated: int, neox: int) -> None:
    """x cos - y sin and x sin + y cos: each product passes through two roundings, and is at most |x| or |y|."""
    random = np.random.default_rng(SEED)
    head = random.standard_normal(size, np.float32)
    angles = rope_table(78, rotated, 1e4)[77]
    expected = reference.rotate(head.astype(np.float64), angles.astype(np.float64), rotated, neox)
    quarter_turn = np.repeat([0.0, 1.0], rotated // 2)
    terms = np.abs(head) + np.abs(reference.rotate(head.astype(np.float64), quarter_turn, rotated, neox))
    found = head.copy()
    rotate(found, angles, rotated, neox)
    assert_within(found[:rotated], expected[:rotated], gamma(2) * terms[:rotated])
    np.testing.assert_array_equal(found[rotated:], head[rotated:])


def test_the_product_of_rotated_heads_depends_on_their_distance_only() -> None:
    random, table = np.random.default_rng(SEED), rope_table(2000, 64, 1e4)
    query, key = random.standard_normal((2, 64), np.float32)

    def product(at: int, of: int) -> float:
        q, k = query.copy(), key.copy()
        rotate(q, table[at], 64, 1)
        rotate(k, table[of], 64, 1)
        return float(q.astype(np.float64) @ k)

    assert product(105, 100) == pytest.approx(product(1905, 1900), abs=64 * 8 * UNIT)
