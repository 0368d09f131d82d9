"""Tables of what a campaign measured."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from tests.system.siege.honest import percentile


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as what stands in them, the first to the left."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{'>' if index else '<'}{widths[index]}}" for index, cell in enumerate(row)).rstrip()
        for row in cells
    )


def spread(seconds: Sequence[float], shares: Sequence[float] = (0.5, 0.99, 1.0)) -> list[str]:
    """Percentiles in ms, by default of a half, of 99 in a hundred and of all."""
    return [f"{1e3 * percentile(seconds, share):.1f}" for share in shares]


def verdict(faults: Sequence[str]) -> str:
    """What a report ends with, and what else the machine had to do."""
    busy, cores = os.getloadavg()[1], os.cpu_count()
    lines = [f"the machine: {busy:.1f} processes at work on {cores} processors, over the last 5 minutes"]
    return "\n".join([*lines, *(f"FAULT: {fault}" for fault in faults or ["none"])])
