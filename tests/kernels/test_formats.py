"""Packing loses nothing: panels stand for the very values of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from numoe.kernels import reference
from numoe.kernels.formats import BY_GGML_TYPE, FORMATS, Format, pack_16_bit, pack_32_bit, pack_q8_0
from numoe.kernels.tiles import BLOCK, ROWS, TILES
from tests.kernels.numeric import SEED, packed, random_rows

every_format = pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
some_rows = pytest.mark.parametrize("rows", [1, 15, 16, 17, 40])


@every_format
@some_rows
def test_panels_stand_for_what_gguf_reads_from_the_file(format_: Format, rows: int) -> None:
    stored = random_rows(format_, rows, 3, np.random.default_rng(SEED))
    panels = packed(format_, stored)
    expected = quants.dequantize(stored, GGMLQuantizationType(format_.ggml_type)).reshape(rows, 3 * BLOCK)
    found = reference.unpack(format_.name, panels)
    np.testing.assert_array_equal(found[:rows], expected)
    np.testing.assert_array_equal(found[rows:], 0.0)


@some_rows
@pytest.mark.parametrize("blocks", [1, 5])
def test_q8_0_panels_equal_their_twin(rows: int, blocks: int) -> None:
    random = np.random.default_rng(SEED)
    stored = random.integers(0, 256, (rows, 34 * blocks)).astype(np.uint8)
    found, expected = (np.full((-(-rows // ROWS), blocks, 544), fill, np.uint8) for fill in (1, 2))
    pack_q8_0(found, stored)
    reference.pack_q8_0(expected, stored)
    np.testing.assert_array_equal(found, expected)


@some_rows
def test_panels_of_floats_equal_their_twin(rows: int) -> None:
    random = np.random.default_rng(SEED)
    packers: list[tuple[Any, Any]] = [(pack_16_bit, np.uint16), (pack_32_bit, np.uint32)]
    for pack, dtype in packers:
        stored = random.integers(0, 2**16, (rows, 64)).astype(dtype)
        found, expected = (np.full((-(-rows // ROWS), 64, ROWS), fill, dtype) for fill in (1, 2))
        pack(found, stored)
        reference.pack_words(expected, stored)
        np.testing.assert_array_equal(found, expected)


@every_format
def test_sizes_are_those_of_gguf(format_: Format) -> None:
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[format_.name]]
    assert format_.block_bytes == size * BLOCK // values
    assert format_.ggml_type == GGMLQuantizationType[format_.name]
    assert BY_GGML_TYPE[format_.ggml_type] is format_
    assert format_.panel_block_bytes == ROWS * format_.block_bytes


def test_every_format_has_its_own_tile() -> None:
    assert sorted(format_.number for format_ in FORMATS) == list(range(len(TILES)))
