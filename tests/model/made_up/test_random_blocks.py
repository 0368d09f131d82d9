"""Random blocks of every type have the spread asked for, and rows of them differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorType, row_bytes
from numoe.model.made_up.random_blocks import EXPONENTS, FLOATS, POOL_BLOCKS, SCALES, BlockPools
from numoe.model.made_up.synthetic_shape import PRESETS


@pytest.mark.parametrize("tensor_type", sorted(SCALES.keys() | EXPONENTS.keys() | FLOATS))
def test_random_blocks_of_every_type_have_a_mean_near_0_and_the_spread_asked_for(tensor_type: TensorType) -> None:
    pools = BlockPools(seed=0, size=1009)
    shape = 128, 512
    data = np.concatenate(list(pools.pieces(tensor_type, shape, 0.02)))
    rows = data.reshape(shape[0], row_bytes(tensor_type, shape[1]))
    values = quants.dequantize(rows, GGMLQuantizationType(tensor_type))
    assert np.isfinite(values).all()
    assert values.std() == pytest.approx(0.02, rel=0.1)
    assert abs(values.mean()) < 0.15 * 0.02  # Q4_0 runs from -8 to 7


@pytest.mark.parametrize("spread", [0.007, 0.02, 0.4, 3.0])
def test_scales_that_are_powers_of_two_give_any_spread(spread: float) -> None:
    data = np.concatenate(list(BlockPools(seed=0, size=4099).pieces(TensorType.MXFP4, (256, 512), spread)))
    values = quants.dequantize(data.reshape(256, -1), GGMLQuantizationType.MXFP4)
    assert values.std() == pytest.approx(spread, rel=0.02)


def test_every_type_that_runs_can_be_made() -> None:
    assert SCALES.keys() | EXPONENTS.keys() | FLOATS >= RUNNABLE_TYPES


def test_a_pool_gives_rows_that_differ_across_its_end() -> None:
    pieces = list(BlockPools(seed=0, size=1009).pieces(TensorType.Q8_0, (1009, 128), 1.0))
    assert len(pieces) in (4, 5)  # 4 times round, from somewhere in the middle
    rows = np.concatenate(pieces).reshape(1009, -1)
    assert len(np.unique(rows, axis=0)) == 1009


def test_the_pools_of_large_models_give_every_row_of_the_vocabulary_its_own_blocks() -> None:
    assert all(POOL_BLOCKS % divisor for divisor in range(2, math.isqrt(POOL_BLOCKS) + 1))
    assert max(shape.vocabulary for shape in PRESETS.values()) < POOL_BLOCKS
