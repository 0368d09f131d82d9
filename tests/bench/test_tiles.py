"""The table of tiles has a row for each format, with the rates of every instruction set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from numoe.kernels.cpu.instruction_sets import runnable

ROOT = Path(__file__).parents[2]


def test_the_table_says_how_fast_formats_are_with_every_instruction_set() -> None:
    command = [sys.executable, "-m", "bench.tiles", "Q4_0", "Q8_0"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    rows = [line.replace("│", " ").split() for line in told.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["Q8_0", "Q4_0"]  # as they stand in the list of formats
    for row in rows:
        assert len(row) == 1 + 2 * len(runnable())
        assert all(int(rate) > 0 for rate in row[1:])
