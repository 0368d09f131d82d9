"""A row of the embedding is exactly what the file holds."""

from __future__ import annotations

import numpy as np
import pytest

from numoe.kernels.weights.embedding import embed_row
from numoe.kernels.weights.file_blocks import UNPACKED_BYTES
from numoe.kernels.weights.formats import NUMBERS, Format
from tests.kernels.numeric import SEED, Bytes, Singles, assert_same_bits, dequantised, every_format, random_rows


def embedded(out: Singles, format_: Format, row: Bytes) -> None:
    """What embed_row makes of a row."""
    embed_row(out, row, NUMBERS[format_.name], np.full(UNPACKED_BYTES, 0xA5, np.uint8))


@every_format
@pytest.mark.parametrize("values", [256, 1024])
def test_a_row_is_bit_for_bit_what_gguf_reads(format_: Format, values: int) -> None:
    rows = random_rows(format_, 3, values, np.random.default_rng(SEED))
    out = np.full(values, np.nan, np.float32)
    for row, expected in zip(rows, dequantised(format_, rows), strict=True):
        embedded(out, format_, row)
        assert_same_bits(out, expected)


@every_format
def test_no_float_is_written_past_the_row(format_: Format) -> None:
    [row] = random_rows(format_, 1, 512, np.random.default_rng(SEED))
    out = np.full(512, -1.0, np.float32)
    embedded(out[:256], format_, row)
    np.testing.assert_array_equal(out[256:], -1.0)
