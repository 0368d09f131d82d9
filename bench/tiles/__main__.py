"""How fast one core multiplies, by format and instruction set: python -m bench.tiles [FORMAT ...]

Giga-operations per second of whole tiles (rates.py), for one column and for the most that a tile takes. Other
instruction sets than the best are run in processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.machine import cores
from bench.tiles.rates import rate
from numoe.kernels.cpu.instruction_sets import runnable
from numoe.kernels.matmul.groups import GROUPS, WIDEST
from numoe.kernels.weights.formats import FORMATS

app = App(help=__doc__)

INTEGERS = tuple(format_ for format_ in FORMATS if format_.integer)
ONLY = "NUMOE_BENCH_TILES"  # set in processes of one instruction set


def _rates(names: tuple[str, ...]) -> Iterator[str]:
    """A line for each format: its name, and its rates with one and with most columns."""
    os.sched_setaffinity(0, {cores()[0]})
    for format_ in INTEGERS:
        if not names or format_.name in names:
            yield f"{format_.name} {rate(format_, 1):.4g} {rate(format_, GROUPS * WIDEST):.4g}"


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
    table = Table("format")
    found: dict[str, list[str]] = {}
    for one in runnable():
        command = [sys.executable, "-m", "bench.tiles", *names]
        environment = {**os.environ, "NUMOE_ISA": one.name, ONLY: "1"}
        told = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        table.add_column(f"{one.name}, 1", justify="right")
        table.add_column(f"{one.groups * one.widths[-1]} columns", justify="right")
        for line in told.splitlines():
            name, *rates = line.split()
            found.setdefault(name, []).extend(f"{float(figure) / 1e9:.0f}" for figure in rates)
    for name, cells in found.items():
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    app()
