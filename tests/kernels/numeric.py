"""What the tests of the kernels share: addresses, error bounds, rows of every format, tiles called from Python."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import ArrayLike, NDArray

from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES, WIDTHS
from numoe.kernels.matmul.tile_table import tile_table
from numoe.kernels.weights.formats import BLOCK, FORMATS, NUMBERS, ROWS, Format
from numoe.kernels.weights.packing import pack
from numoe.model.gguf.tensors import TensorType
from numoe.model.made_up.random_blocks import SCALES
from tests.kernels import reference
from tests.kernels.reference import Reals

Bytes = NDArray[np.uint8]
Singles = NDArray[np.float32]

UNIT = 2.0**-24  # half the distance from 1 to the next float32: the largest relative error of one rounding
SEED = 20

_TILE = ctypes.CFUNCTYPE(None, *[ctypes.c_size_t, ctypes.c_ssize_t, ctypes.c_size_t] * 2, ctypes.c_ssize_t)
BY_NAME = {format_.name: format_ for format_ in FORMATS}
QUANTISED = [format_ for format_ in FORMATS if format_.integer]
every_format = pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
every_quantised_format = pytest.mark.parametrize("format_", QUANTISED, ids=lambda format_: format_.name)


def gamma(operations: float) -> float:
    """The relative error of that many roundings one upon another (Higham 2002, lemma 3.1)."""
    return operations * UNIT / (1 - operations * UNIT)


def assert_within(found: ArrayLike, expected: Reals, bound: ArrayLike) -> None:
    """|found - expected| <= bound everywhere; says how far beyond where not."""
    error = np.abs(np.asarray(found, np.float64) - expected)
    beyond = ~(error <= bound)  # also where NaN was found
    assert not beyond.any(), f"found {np.asarray(found)[beyond]}, expected {expected[beyond]}, off by {error[beyond]}"


def assert_same_bits(found: Singles, expected: Singles) -> None:
    """Equal, and zeros of the same sign."""
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def address(array: NDArray[Any]) -> int:
    """Where the first element lies."""
    assert array.flags.c_contiguous
    return array.ctypes.data


def half_fields(format_: Format) -> list[int]:
    """Where in a file block of a quantised format d lies, and m if there is one."""
    known = SCALES.get(TensorType(format_.ggml_type))
    return [at for at in (known.at, known.offset_at) if at is not None] if known else []


def set_halves(format_: Format, rows: Bytes, values: NDArray[Any]) -> Bytes:
    """Rows [rows, units * unit bytes] with these float16 [..., fields] in their units' fields d and m."""
    units = rows.reshape(len(rows), -1, format_.unit_bytes).copy()
    fields = half_fields(format_)
    halves = np.broadcast_to(values, (*units.shape[:2], len(fields))).astype(np.float16)
    for index, at in enumerate(fields):
        units[..., at : at + 2] = halves[..., index, None].view(np.uint8)
    return units.reshape(len(rows), -1)


def random_rows(format_: Format, rows: int, values: int, random: np.random.Generator) -> Bytes:
    """Rows of a file: every bit of a block is drawn but for scales, which make values of about 1."""
    floats = random.standard_normal((rows, values), np.float32)
    match format_.name:
        case "F32":
            return floats.view(np.uint8)
        case "F16":
            return floats.astype(np.float16).view(np.uint8)
        case "BF16":
            return (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    units = values // format_.unit_values
    drawn = random.integers(0, 256, (rows, units, format_.unit_bytes)).astype(np.uint8)
    if format_.name == "MXFP4":
        drawn[..., 0] = random.integers(118, 130, (rows, units))
    halves = random.uniform(-0.02, 0.02, (rows, units, len(half_fields(format_))))
    return set_halves(format_, drawn.reshape(rows, -1), halves)


def dequantised(format_: Format, rows: Bytes) -> Singles:
    """What rows of a file mean."""
    return quants.dequantize(rows, GGMLQuantizationType(format_.ggml_type)).astype(np.float32)


def masses(format_: Format, rows: Bytes) -> Reals:
    """|d s q| + |m t| for values that are such differences, |w| for the others: what roundings are relative to."""
    if len(half_fields(format_)) < 2:
        return np.abs(dequantised(format_, rows).astype(np.float64))
    halves = rows.reshape(len(rows), -1, format_.unit_bytes)
    d, m = (halves[..., at : at + 2].copy().view(np.float16) for at in half_fields(format_))
    parts = [np.concatenate(pair, axis=-1) for pair in ((d, 0 * m), (0 * d, m))]
    products, offsets = (dequantised(format_, set_halves(format_, rows, part)).astype(np.float64) for part in parts)
    return np.abs(products) + np.abs(offsets)


def packed(format_: Format, rows: Bytes) -> Bytes:  # [panels, units, panel unit bytes]
    """The rows as panels."""
    units = rows.shape[1] // format_.unit_bytes
    panels = np.full((-(-len(rows) // ROWS), units, format_.panel_unit_bytes), 0xA5, np.uint8)
    pack(format_, panels, rows)
    return panels


def group_bytes(integer: bool) -> int:
    """Bytes of one column and block of a group."""
    return INTEGER_BYTES if integer else FLOAT_BYTES


def group_of(format_: Format, x: Singles) -> Bytes:
    """The columns x [C, n] as one group of the kind that the format reads."""
    columns, blocks = len(x), x.shape[1] // BLOCK
    group = np.zeros(columns * blocks * group_bytes(format_.integer), np.uint8)
    for column, values in enumerate(x):
        if format_.integer:
            reference.write_integer_column(group, columns, column, values, blocks)
        else:
            reference.write_float_column(group.view(np.float32), columns, column, values, blocks)
    return group


def group_values(format_: Format, group: Bytes, columns: int) -> Reals:  # [C, n]
    """What the group stands for."""
    blocks = group.size // (columns * group_bytes(format_.integer))
    if format_.integer:
        return reference.integer_columns(group, columns, blocks)
    return reference.float_columns(group.view(np.float32), columns, blocks)


@cache
def tiles() -> NDArray[np.uintp]:
    """The table of tile kernels."""
    return tile_table()


def tile_address(format_: Format, columns: int) -> int:
    """Of the tile kernel for so many columns."""
    return int(tiles()[NUMBERS[format_.name], WIDTHS.index(columns)])


def run_tile(format_: Format, panel: Bytes, group: Bytes, columns: int, groups: int = 1) -> Singles:
    """One panel [units, panel unit bytes] times some groups: [groups * columns, 16]. Nothing else is written."""
    every = groups * columns
    out = np.full((every + 1, ROWS + 3), -77.0, np.float32)
    blocks, tile = len(panel) * format_.unit_blocks, _TILE(tile_address(format_, columns))
    tile(address(panel), blocks, address(group), address(out), out[0].nbytes, 0, groups)
    assert (out[every:] == -77).all()
    assert (out[:, ROWS:] == -77).all()
    return out[:every, :ROWS].copy()
