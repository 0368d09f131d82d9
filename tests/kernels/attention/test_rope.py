"""Rotation tables and rotations equal their twins, in both styles and all scalings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numoe.kernels.attention.rope import rope_table, rotate
from tests.kernels import reference
from tests.kernels.numeric import SEED, UNIT, assert_within, gamma

SCALINGS: list[dict[str, Any]] = [
    {},
    {"scaling": "linear", "factor": 4.0},
    {"scaling": "yarn", "factor": 4.0, "original_context": 32768},
    {"scaling": "yarn", "factor": 2.5, "original_context": 4096, "attention_factor": 0.9, "beta_fast": 16.0},
    {"scaling": "yarn", "factor": 4.0, "original_context": 32768, "extrapolation_factor": 0.0},
]


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
