"""The tile kernels of all formats and widths, compiled."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import address_of
from numoe.kernels.matmul.float_tile import make_float_tile
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.matmul.integer_tile import make_integer_tile
from numoe.kernels.matmul.tiles import TILE_SIGNATURE
from numoe.kernels.weights.formats import FORMATS, NUMBERS, Format


def tile_table(formats: Iterable[Format] = FORMATS) -> NDArray[np.uintp]:  # [formats, widths]
    """Compile the tiles of some formats, or load them from the cache.

    [f, w] is the address of the tile of FORMATS[f] and WIDTHS[w] columns, 0 if not asked for.
    """
    table = np.zeros((len(FORMATS), len(WIDTHS)), np.uintp)
    for format_ in formats:
        make = make_integer_tile if format_.integer else make_float_tile
        table[NUMBERS[format_.name]] = [address_of(TILE_SIGNATURE, make(format_, columns)) for columns in WIDTHS]
    return table
