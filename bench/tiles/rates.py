"""How fast one core multiplies with the tiles of a format.

Whole tiles: unpacking, products, scales and sums, with the activations in the first cache. What is multiplied with
weights in the second-level cache, so that memory does not count, is the best of many runs.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.groups import INTEGER_BYTES, SCALE, SUM, WIDEST, WIDTHS
from numoe.kernels.matmul.tile_table import tile_table
from numoe.kernels.matmul.tiles import run_tile
from numoe.kernels.weights.formats import BLOCK, BY_GGML_TYPE, NUMBERS, ROWS, Format
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.prediction.speeds import Speeds
from numoe.worker.placing.memory import allocate

BLOCKS = 64  # of a row: 2048 inputs
WEIGHT_BYTES = 200_000
RUNS, PASSES = 20, 16  # a run goes over the weights so many times: calling it takes microseconds
MEMORY_BYTES, MEMORY_RUNS = 512 << 20, 5


@kernel
def _multiply(
    tile: int, passes: int, panels: int, panel_bytes: int, weights: int, group: int, out: int, groups: int
) -> None:
    for _ in range(passes):
        for panel in range(panels):
            run_tile(tile, weights + panel * panel_bytes, BLOCKS, group, out, 4 * ROWS, 0, groups)


def _panel_bytes(format_: Format) -> int:
    return format_.panel_unit_bytes * (BLOCKS // format_.unit_blocks)


def _weights(size: int) -> NDArray[np.uint8]:
    weights = allocate(size)
    weights[:] = np.random.default_rng(0).integers(0, 64, size, np.uint8)
    return weights


def _run_seconds(
    format_: Format, columns: int, weights: NDArray[np.uint8], panels: int, runs: int, passes: int
) -> list[float]:
    """What one pass over these panels took, of some runs."""
    groups = -(-columns // WIDEST)
    tile = tile_table([format_])[NUMBERS[format_.name], WIDTHS.index(columns // groups)]
    group, out = allocate(INTEGER_BYTES * BLOCKS * columns), np.zeros((columns, ROWS), np.float32)
    group.fill(1)
    for field in (SCALE, SUM):  # numbers near 1: CPUs take 100 times as long for subnormal ones
        group.reshape(-1, INTEGER_BYTES)[:, field : field + 4].view(np.float32)[:] = 1
    places = weights.ctypes.data, group.ctypes.data, out.ctypes.data, groups
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        _multiply(tile, passes, panels, _panel_bytes(format_), *places)
        times.append((time.perf_counter() - started) / passes)
    return times


def rate(format_: Format, columns: int) -> float:
    """Operations per second, two for a product and its addition, of a tile of so many columns.

    `columns`: one of WIDTHS, or up to GROUPS times WIDEST.
    """
    panels = WEIGHT_BYTES // _panel_bytes(format_)
    weights = _weights(panels * _panel_bytes(format_) + (1 << 16))
    best = min(_run_seconds(format_, columns, weights, panels, RUNS + 1, PASSES))
    return 2.0 * panels * ROWS * BLOCKS * BLOCK * columns / best


def stream_rate(format_: Format) -> float:
    """Bytes of weights per second that a core multiplies with one column."""
    return rate(format_, 1) * format_.panel_unit_bytes / (2 * ROWS * BLOCK * format_.unit_blocks)


def memory_rate(format_: Format, weights: NDArray[np.uint8]) -> float:
    """As `stream_rate`, but of weights that no cache holds, and the median of a few runs."""
    panels = weights.size // _panel_bytes(format_)
    seconds = statistics.median(_run_seconds(format_, 1, weights, panels, MEMORY_RUNS, 1))
    return panels * _panel_bytes(format_) / seconds


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """Keep this thread on one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def with_core_rates(speeds: Speeds, spec: ModelSpec, read_rate: float) -> Speeds:
    """Speeds with what this core does with a model's types of integers; `read_rate`: bytes per second that it reads."""
    weights = _weights(MEMORY_BYTES)
    streams, not_overlapped = {}, {}
    for type_ in spec.matrix_types:
        format_ = BY_GGML_TYPE[type_]
        if format_.integer:
            streams[type_] = stream_rate(format_)
            longer, shorter = sorted((1 / read_rate, 1 / streams[type_]), reverse=True)
            over = (1 / memory_rate(format_, weights) - longer) / shorter
            not_overlapped[type_] = min(max(over, 0.0), 1.0)
    return replace(speeds, core_streams=streams, not_overlapped=not_overlapped)
