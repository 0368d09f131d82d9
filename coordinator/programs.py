"""The programs of ours that the coordinator starts beside itself."""

from __future__ import annotations

import os
import sys
from typing import IO

MOST_TOLD_BYTES = 4096  # of what a program wrote last


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter, which imports nothing from the current folder (-P).

    Whoever serves a model stands in any folder: a file in it that is named like a module must not be run.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def open_errors() -> IO[bytes]:
    """Memory for all that a program writes on standard error: a pipe would have to be read all along."""
    return os.fdopen(os.memfd_create("numoe-errors"), "rb")


def last_line(errors: IO[bytes]) -> str:
    """The last line that was written there; empty: there is none."""
    size = os.fstat(errors.fileno()).st_size
    told = os.pread(errors.fileno(), MOST_TOLD_BYTES, max(0, size - MOST_TOLD_BYTES)).decode(errors="replace")
    return (told.strip().splitlines() or [""])[-1]
