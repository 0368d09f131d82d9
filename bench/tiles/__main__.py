"""How fast one core multiplies, by format and instruction set: python -m bench.tiles [FORMAT ...]

Giga-operations per second, two for a product and its addition, of whole tiles: unpacking, products, scales and sums.
Weights lie in the second-level cache and activations in the first, so that memory does not count; the best of many runs
on one pinned thread, for one column and for the most that a tile takes. Other instruction sets than the best are run in
processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.machine import cores
from numoe.kernels.cpu.instruction_sets import runnable
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.groups import INTEGER_BYTES, WIDEST, WIDTHS
from numoe.kernels.matmul.tile_table import tile_table
from numoe.kernels.matmul.tiles import run_tile
from numoe.kernels.weights.formats import BLOCK, FORMATS, NUMBERS, ROWS, Format
from numoe.worker.placing.memory import allocate

app = App(help=__doc__)

BLOCKS = 64  # of a row: 2048 inputs
WEIGHT_BYTES = 200_000
RUNS = 40
INTEGERS = tuple(format_ for format_ in FORMATS if format_.integer)
ONLY = "NUMOE_BENCH_TILES"  # set in processes of one instruction set


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


def _rates(names: tuple[str, ...]) -> Iterator[str]:
    """A line for each format: its name, and its rates with one and with most columns."""
    os.sched_setaffinity(0, {cores()[0]})
    for format_ in INTEGERS:
        if not names or format_.name in names:
            yield f"{format_.name} {rate(format_, 1):.4g} {rate(format_, WIDEST):.4g}"


@app.default
def main(*names: str) -> None:
    """Print the table.

    Parameters
    ----------
    names
        Formats; all that are given none.
    """
    if unknown := set(names) - {format_.name for format_ in INTEGERS}:
        sys.exit(f"found {', '.join(sorted(unknown))}, expected some of {', '.join(one.name for one in INTEGERS)}")
    if os.environ.get(ONLY):
        sys.stdout.writelines(f"{line}\n" for line in _rates(names))
        return
    table, found = Table("format"), {}
    for one in runnable():
        command = [sys.executable, "-m", "bench.tiles", *names]
        environment = {**os.environ, "NUMOE_ISA": one.name, ONLY: "1"}
        told = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        table.add_column(f"{one.name}, 1", justify="right")
        table.add_column(f"{one.widths[-1]} columns", justify="right")
        for line in told.splitlines():
            name, *rates = line.split()
            found.setdefault(name, []).extend(f"{float(figure) / 1e9:.0f}" for figure in rates)
    for name, cells in found.items():
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    app()
