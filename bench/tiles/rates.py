"""How fast a core multiplies with the tiles of a format, alone or while others do.

Whole tiles: unpacking, products, scales and sums, with the activations in the first cache. What is multiplied with
weights in the second-level cache, so that memory does not count, is the best of many runs, or, of several CPUs at once,
which may be two of one core, their median.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Barrier

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
RUNS_AT_ONCE = 200  # threads begin and end within a few runs of each other
MEMORY_BYTES, MEMORY_BYTES_EACH, MEMORY_RUNS = 512 << 20, 64 << 20, 5  # of all CPUs that read, and of each at least
RANDOM_BYTES = 1 << 20  # which are repeated


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
    weights, some = allocate(size), np.random.default_rng(0).integers(0, 64, RANDOM_BYTES, np.uint8)
    for first in range(0, size, RANDOM_BYTES):
        weights[first : first + RANDOM_BYTES] = some[: size - first]
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


def rate(format_: Format, columns: int, runs: int = RUNS, of: Callable[[list[float]], float] = min) -> float:
    """Operations per second, two for a product and its addition, of a tile of so many columns.

    `columns`: one of WIDTHS, or up to GROUPS times WIDEST. `of`: the run that counts.
    """
    panels = WEIGHT_BYTES // _panel_bytes(format_)
    weights = _weights(panels * _panel_bytes(format_) + (1 << 16))
    taken = of(_run_seconds(format_, columns, weights, panels, runs + 1, PASSES))
    return 2.0 * panels * ROWS * BLOCKS * BLOCK * columns / taken


def stream_rate(format_: Format, cpus: Sequence[int]) -> float:
    """Bytes of weights per second that a core multiplies with one column, the mean of these, which do so at once."""
    runs, of = (RUNS, min) if len(cpus) == 1 else (RUNS_AT_ONCE, statistics.median)
    found = statistics.mean(on_each(cpus, lambda: partial(rate, format_, 1, runs, of)))
    return found * format_.panel_unit_bytes / (2 * ROWS * BLOCK * format_.unit_blocks)


def memory_rate(format_: Format, cpus: Sequence[int]) -> float:
    """As `stream_rate`, but of weights that no cache holds, and the median of a few runs."""
    size = max(MEMORY_BYTES // len(cpus), MEMORY_BYTES_EACH)
    panels = size // _panel_bytes(format_)

    def prepare() -> Callable[[], float]:
        weights = _weights(size)
        return lambda: statistics.median(_run_seconds(format_, 1, weights, panels, MEMORY_RUNS, 1))

    return panels * _panel_bytes(format_) / statistics.mean(on_each(cpus, prepare))


def on_each(cpus: Sequence[int], prepare: Callable[[], Callable[[], float]]) -> list[float]:
    """[cpus] what is measured on each of some CPUs, on all at once, by what `prepare` returns there."""
    together = Barrier(len(cpus))

    def run(cpu: int) -> float:
        with on_cpu(cpu):
            try:
                measure = prepare()
            except BaseException:
                together.abort()  # else the others would wait for ever
                raise
            together.wait()
            return measure()

    with ThreadPoolExecutor(len(cpus)) as pool:
        return list(pool.map(run, cpus))


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """Keep this thread on one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def with_core_rates(speeds: Speeds, spec: ModelSpec, cpus: Sequence[int], bandwidth: float) -> Speeds:
    """Speeds with what each of these cores does with a model's types of integers while all of them do.

    `bandwidth`: bytes per second that they read together.
    """
    streams, not_overlapped = {}, {}
    for type_ in spec.matrix_types:
        format_ = BY_GGML_TYPE[type_]
        if format_.integer:
            streams[type_] = stream_rate(format_, cpus)
            longer, shorter = sorted((len(cpus) / bandwidth, 1 / streams[type_]), reverse=True)
            over = (1 / memory_rate(format_, cpus) - longer) / shorter
            not_overlapped[type_] = min(max(over, 0.0), 1.0)
    return replace(speeds, core_streams=streams, not_overlapped=not_overlapped)
