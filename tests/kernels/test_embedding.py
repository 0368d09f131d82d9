"""A row of the embedding is exactly what the file holds."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from numoe.kernels import reference
from numoe.kernels.embedding import embed_row
from numoe.kernels.formats import FORMATS, Format
from numoe.kernels.tiles import BLOCK
from tests.kernels.numeric import SEED, address, random_rows


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_a_row_is_what_gguf_reads_and_what_the_twin_says(format_: Format, blocks: int) -> None:
    row = random_rows(format_, 1, blocks, np.random.default_rng(SEED))
    out = np.full(blocks * BLOCK, np.nan, np.float32)
    embed_row(address(out), address(row), format_.number, out.size)
    np.testing.assert_array_equal(out, quants.dequantize(row, GGMLQuantizationType(format_.ggml_type)).reshape(-1))
    np.testing.assert_array_equal(out, reference.embed_row(row[0], format_.name))


def test_no_float_is_written_past_the_row() -> None:
    row, out = np.ones(64, np.float32), np.full(96, -1.0, np.float32)
    embed_row(address(out), address(row), 0, 64)
    np.testing.assert_array_equal(out[64:], -1.0)
