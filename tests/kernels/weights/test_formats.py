"""Every format's blocks are read as `gguf` reads them, and panels lose nothing of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import widen_f16
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.weights.embedding import dequantise
from numoe.kernels.weights.file_blocks import UNPACKED_BYTES
from numoe.kernels.weights.formats import BLOCK, BY_GGML_TYPE, DRAWINGS, FORMATS, NUMBERS, ROWS, Format, Meaning
from numoe.kernels.weights.packing import pack
from numoe.kernels.weights.quants import IQ4, MXFP4, place_of, quants_bytes
from numoe.model.gguf.tensors import BLOCKS, RUNNABLE_TYPES, TensorType
from tests.kernels import reference
from tests.kernels.numeric import (
    SEED,
    Bytes,
    Singles,
    assert_same_bits,
    assert_within,
    dequantised,
    every_format,
    every_quantised_format,
    gamma,
    group_bytes,
    half_fields,
    masses,
    packed,
    random_rows,
    run_tile,
    set_halves,
)

# Zeros, the smallest and the largest subnormals, the smallest and the largest normal halves.
EXTREMES = [0.0, 2.0**-24, 1023 * 2.0**-24, 2.0**-14, 1.0, 65504.0]
# Bytes that a panel has per row and unit where they are not the file's: small scales are whole bytes.
WIDER = {"IQ4_XS": 2 + 8 + 128, "Q3_K": 2 + 16 + 96, "Q4_K": 4 + 16 + 128, "Q5_K": 4 + 16 + 160}


def read(format_: Format, unit: Bytes) -> Singles:
    """One block of the file as floats."""
    out = np.full(format_.unit_values + 1, -77.0, np.float32)
    scratch = np.full(UNPACKED_BYTES, 0xA5, np.uint8)
    dequantise(out[:-1], unit, DRAWINGS[NUMBERS[format_.name]], scratch)
    assert out[-1] == -77
    return out[:-1]


@every_quantised_format
def test_blocks_mean_bit_for_bit_what_gguf_reads(format_: Format) -> None:
    rows = random_rows(format_, 40, 2 * format_.unit_values, np.random.default_rng(SEED))
    for row, expected in zip(rows, dequantised(format_, rows), strict=True):
        for unit in range(2):
            block = row[format_.unit_bytes * unit : format_.unit_bytes * (unit + 1)]
            values = slice(format_.unit_values * unit, format_.unit_values * (unit + 1))
            assert_same_bits(read(format_, block), expected[values])


@every_quantised_format
def test_blocks_of_extreme_scales_mean_what_gguf_reads(format_: Format) -> None:
    random, fields = np.random.default_rng(SEED), len(half_fields(format_))
    signed = np.array([*EXTREMES, *(-extreme for extreme in EXTREMES)])
    scales = np.stack(np.meshgrid(*[signed] * fields), axis=-1).reshape(-1, fields) if fields else np.zeros((256, 0))
    rows = random.integers(0, 256, (len(scales), format_.unit_bytes)).astype(np.uint8)
    rows = set_halves(format_, rows, scales[:, None])
    if format_.name == "MXFP4":
        rows[:, 0] = range(256)
    with np.errstate(over="ignore"):
        for row in rows:
            assert_same_bits(read(format_, row), dequantised(format_, row[None])[0])


@kernel
def widened(half: NDArray[np.uint16]) -> np.float32:
    """widen_f16, callable from Python."""
    value: np.float32 = widen_f16(half.ctypes.data)
    return value


def test_every_half_float_is_read_as_numpy_reads_it() -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    found = np.array([widened(halves[index : index + 1]) for index in range(halves.size)], np.float32)
    expected = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert_same_bits(found[~np.isnan(found)], expected[~np.isnan(found)])


def one_hot_group(format_: Format, first: int, columns: int, values: int) -> Bytes:
    """Column c is 1 at value first + c and 0 elsewhere, its scale 1."""
    blocks = values // BLOCK
    group = np.zeros(columns * blocks * group_bytes(format_.integer), np.uint8)
    for column in range(columns):
        x = np.zeros(values, np.int64)
        x[first + column] = 1
        if format_.integer:
            ones = np.ones(blocks, np.float32)
            reference.put_integer_column(group, columns, column, x.reshape(blocks, BLOCK), ones)
        else:
            reference.write_float_column(group.view(np.float32), columns, column, x.astype(np.float32), blocks)
    return group


@every_format
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 40])
def test_panels_hold_the_very_values_of_the_file(format_: Format, rows: int) -> None:
    """Tiles pick them one by one. Q2_K and Q3_K multiply quant and small scale first, so round elsewhere than gguf.

    Three roundings there, three here. Rows past the last are zeros.
    """
    values = 2 * format_.unit_values
    stored = random_rows(format_, rows, values, np.random.default_rng(SEED))
    panels = packed(format_, stored)
    found = np.full((len(panels) * ROWS, values), np.nan, np.float32)
    columns = max(width for width in WIDTHS if BLOCK % width == 0)
    for first in range(0, values, columns):
        group = one_hot_group(format_, first, columns, values)
        for panel, own in zip(panels, found.reshape(len(panels), ROWS, values), strict=True):
            own[:, first : first + columns] = run_tile(format_, panel, group, columns).T
    expected = dequantised(format_, stored)
    if format_.name in ("Q2_K", "Q3_K"):
        assert_within(found[:rows], expected.astype(np.float64), gamma(6) * masses(format_, stored))
    else:
        np.testing.assert_array_equal(found[:rows], expected)
    np.testing.assert_array_equal(found[rows:], 0.0)


@every_format
def test_packing_writes_nothing_outside_its_panels(format_: Format) -> None:
    rows = random_rows(format_, 20, format_.unit_values, np.random.default_rng(SEED))
    panels = np.full((4, 1, format_.panel_unit_bytes), 0x5A, np.uint8)
    pack(format_, panels[1:3], rows)
    np.testing.assert_array_equal(panels[1:3], packed(format_, rows))
    assert (panels[[0, 3]] == 0x5A).all()


@every_format
def test_sizes_are_those_of_gguf(format_: Format) -> None:
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[format_.name]]
    assert format_.unit_values % values == 0
    assert format_.unit_bytes == size * format_.unit_values // values
    assert format_.ggml_type == int(GGMLQuantizationType[format_.name]) == int(TensorType[format_.name])
    assert BLOCKS[TensorType(format_.ggml_type)] == (values, size)
    assert BY_GGML_TYPE[format_.ggml_type] is format_


@every_format
def test_panels_take_the_bytes_of_the_file_but_for_whole_small_scales(format_: Format) -> None:
    assert format_.panel_unit_bytes == ROWS * WIDER.get(format_.name, format_.unit_bytes)
    assert format_.panel_unit_bytes == format_.head_bytes + format_.unit_blocks * format_.block_bytes
    if format_.meaning is not Meaning.FLOAT:
        size = quants_bytes(format_.low_bits, format_.high_bits)
        assert size == ROWS * BLOCK * (format_.low_bits + format_.high_bits) // 8
        assert format_.block_bytes == size
        assert format_.head_bytes == format_.scales_start + ROWS * format_.scales * format_.unit_blocks


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_parts_share_vectors_without_overlap(bits: int) -> None:
    places = [place_of(part, bits) for part in range(8)]
    assert {vector for vector, _ in places} == set(range(bits))
    for vector in range(bits):
        assert sorted(first for own, first in places if own == vector) == list(range(0, 8, bits))


def test_tables_are_those_of_gguf() -> None:
    for name, table in (("IQ4_NL", IQ4), ("MXFP4", MXFP4)):
        kind: Any = quants._type_traits[GGMLQuantizationType[name]]
        assert tuple(kind.kvalues) == table


def test_every_type_that_runs_has_a_format_and_a_number() -> None:
    assert {TensorType[format_.name] for format_ in FORMATS} == RUNNABLE_TYPES
    assert sorted(NUMBERS.values()) == list(range(len(FORMATS))) == sorted(DRAWINGS["number"])
