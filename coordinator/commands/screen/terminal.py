"""What every command writes to, and the codes with which it exits."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text

from numoe.coordinator.quiet_stream import quiet
from numoe.protos.foreign_text import harmless

FAILED_EXIT_CODE, SETUP_EXIT_CODE, INTERRUPTED_EXIT_CODE = 1, 2, 130


def out(file: TextIO | None = None) -> Console:
    """Standard output, or a `file` in its place: answers and results."""
    return Console(file=file, highlight=False, markup=False, soft_wrap=True)


def err() -> Console:
    """Standard error: progress, remarks, errors; what cannot be written is dropped."""
    return Console(file=quiet(sys.stderr), highlight=False, markup=False, soft_wrap=True)


def show_error(message: str) -> None:
    """Write one line to standard error, however many `message` has, without what could steer a terminal."""
    err().print(Text.assemble(("error: ", "bold red"), harmless(" ".join(message.split()))))
