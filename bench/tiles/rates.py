"""How fast one core multiplies with the tiles of a format.

Operations per second, two for a product and its addition, of whole tiles: unpacking, products, scales and sums. Weights
lie in the second-level cache and activations in the first, so that memory does not count; the best of many runs.
"""

from __future__ import annotations

import time

import numpy as np

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.groups import INTEGER_BYTES, WIDTHS
from numoe.kernels.matmul.tile_table import tile_table
from numoe.kernels.matmul.tiles import run_tile
from numoe.kernels.weights.formats import BLOCK, BY_GGML_TYPE, NUMBERS, ROWS, Format
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.worker.placing.memory import allocate

BLOCKS = 64  # of a row: 2048 inputs
WEIGHT_BYTES = 200_000
RUNS = 40


@kernel
def _multiply(tile: int, panels: int, panel_bytes: int, weights: int, group: int, out: int) -> None:
    for panel in range(panels):
        run_tile(tile, weights + panel * panel_bytes, BLOCKS, group, out, 4 * ROWS, 0)


def rate(format_: Format, columns: int) -> float:
    """Operations per second of a format's tile of so many columns, one of WIDTHS."""
    tile = tile_table([format_])[NUMBERS[format_.name], WIDTHS.index(columns)]
    panel_bytes = format_.panel_unit_bytes * (BLOCKS // format_.unit_blocks)
    panels = WEIGHT_BYTES // panel_bytes
    weights, group = allocate(panels * panel_bytes + (1 << 16)), allocate(INTEGER_BYTES * BLOCKS * columns)
    weights[:] = np.random.default_rng(0).integers(0, 64, weights.size, np.uint8)
    group.fill(1)
    out, best = np.zeros((columns, ROWS), np.float32), float("inf")
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        _multiply(tile, panels, panel_bytes, weights.ctypes.data, group.ctypes.data, out.ctypes.data)
        best = min(best, time.perf_counter() - started)
    return 2.0 * panels * ROWS * BLOCKS * BLOCK * columns / best


def stream_rate(format_: Format) -> float:
    """Bytes of weights per second that a core multiplies with one column."""
    return rate(format_, 1) * format_.panel_unit_bytes / (2 * ROWS * BLOCK * format_.unit_blocks)


def core_streams(spec: ModelSpec) -> dict[TensorType, float]:
    """The stream rates of a model's types of integers."""
    formats = {type_: BY_GGML_TYPE[type_] for type_ in spec.matrix_types}
    return {type_: stream_rate(format_) for type_, format_ in formats.items() if format_.integer}
