"""How fast one core multiplies with the tiles of a format.

Operations per second, two for a product and its addition, of whole tiles: unpacking, products, scales and sums. Weights
lie in the second-level cache and activations in the first, so that memory does not count; the best of many runs.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.groups import INTEGER_BYTES, WIDTHS
from numoe.kernels.matmul.tile_table import tile_table
from numoe.kernels.matmul.tiles import run_tile
from numoe.kernels.weights.formats import BLOCK, BY_GGML_TYPE, NUMBERS, ROWS, Format
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.prediction.speeds import Speeds
from numoe.worker.placing.memory import allocate

BLOCKS = 64  # of a row: 2048 inputs
WEIGHT_BYTES = 200_000
RUNS = 40
MEMORY_BYTES, MEMORY_RUNS = 512 << 20, 5


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


def memory_rate(format_: Format, weights: NDArray[np.uint8]) -> float:
    """As `stream_rate`, but of weights that no cache holds, and the median of a few runs."""
    tile = tile_table([format_])[NUMBERS[format_.name], WIDTHS.index(1)]
    panel_bytes = format_.panel_unit_bytes * (BLOCKS // format_.unit_blocks)
    panels = weights.size // panel_bytes
    group, out = allocate(INTEGER_BYTES * BLOCKS), np.zeros((1, ROWS), np.float32)
    group.fill(1)
    times = []
    for _ in range(MEMORY_RUNS):
        started = time.perf_counter()
        _multiply(tile, panels, panel_bytes, weights.ctypes.data, group.ctypes.data, out.ctypes.data)
        times.append(time.perf_counter() - started)
    return panels * panel_bytes / statistics.median(times)


def with_core_rates(speeds: Speeds, spec: ModelSpec, read_rate: float) -> Speeds:
    """Speeds with what this core does with a model's types of integers; `read_rate`: bytes per second that it reads."""
    weights = allocate(MEMORY_BYTES)
    weights[:] = np.random.default_rng(0).integers(0, 64, weights.size, np.uint8)
    streams, not_overlapped = {}, {}
    for type_ in spec.matrix_types:
        format_ = BY_GGML_TYPE[type_]
        if format_.integer:
            streams[type_] = stream_rate(format_)
            longer, shorter = sorted((1 / read_rate, 1 / streams[type_]), reverse=True)
            over = (1 / memory_rate(format_, weights) - longer) / shorter
            not_overlapped[type_] = min(max(over, 0.0), 1.0)
    return replace(speeds, core_streams=streams, not_overlapped=not_overlapped)
