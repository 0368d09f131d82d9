"""What the tests of the kernels share: addresses, error bounds, tiles called from Python."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from numoe.kernels.formats import FORMATS, Format
from numoe.kernels.reference import Reals
from numoe.kernels.tiles import BLOCK, FLOAT_BYTES, INTEGER_BYTES, ROWS, WIDTHS, tile_table

UNIT = 2.0**-24  # half the distance from 1 to the next float32: the largest relative error of one rounding
SEED = 20

_TILE = ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_ssize_t, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_ssize_t)
BY_NAME = {format_.name: format_ for format_ in FORMATS}


def gamma(operations: float) -> float:
    """The relative error of that many roundings one upon another (Higham 2002, lemma 3.1)."""
    return operations * UNIT / (1 - operations * UNIT)


def assert_within(found: ArrayLike, expected: Reals, bound: ArrayLike) -> None:
    """|found - expected| <= bound everywhere; says how far beyond where not."""
    error = np.abs(np.asarray(found, np.float64) - expected)
    beyond = ~(error <= bound)  # also where NaN was found
    assert not beyond.any(), f"found {np.asarray(found)[beyond]}, expected {expected[beyond]}, off by {error[beyond]}"


def address(array: NDArray[Any]) -> int:
    """Where the first element lies."""
    assert array.flags.c_contiguous
    return array.ctypes.data


def random_rows(format_: Format, rows: int, blocks: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Rows of a file: [rows, blocks * block bytes], values near 1."""
    values = random.standard_normal((rows, blocks * BLOCK), np.float32)
    match format_.name:
        case "F32":
            return values.view(np.uint8)
        case "F16":
            return values.astype(np.float16).view(np.uint8)
        case "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    quants = random.integers(-128, 128, (rows, blocks, BLOCK)).astype(np.int8).view(np.uint8)
    scales = random.uniform(0.001, 0.02, (rows, blocks, 1)).astype(np.float16).view(np.uint8)
    return np.concatenate([scales, quants], axis=2).reshape(rows, -1)


def packed(format_: Format, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:  # [panels, blocks, panel block bytes]
    """The rows as panels."""
    blocks = rows.shape[1] // format_.block_bytes
    panels = np.full((-(-len(rows) // ROWS), blocks, format_.panel_block_bytes), 0xA5, np.uint8)
    format_.pack(panels, rows)
    return panels


def group_bytes(integer: bool) -> int:
    """Bytes of one column and block of a group."""
    return INTEGER_BYTES if integer else FLOAT_BYTES


@cache
def tiles() -> NDArray[np.uintp]:
    """The table of tile kernels."""
    return tile_table()


def run_tile(format_: Format, panel: NDArray[np.uint8], group: NDArray[Any], columns: int) -> NDArray[np.float32]:
    """One panel [blocks, panel block bytes] times a group: [columns, 16]."""
    out = np.full((columns, ROWS), np.nan, np.float32)
    kernel = _TILE(int(tiles()[format_.number, WIDTHS.index(columns)]))
    kernel(address(panel), len(panel), address(group), address(out), 4 * ROWS)
    return out


def tile_address(format_: Format, columns: int) -> int:
    """Of the tile kernel for so many columns."""
    return int(tiles()[format_.number, WIDTHS.index(columns)])
