"""What every command writes to, and the codes with which it exits."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

FAILED_EXIT_CODE, SETUP_EXIT_CODE, INTERRUPTED_EXIT_CODE = 1, 2, 130


def out() -> Console:
    """Standard output: answers and results."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def err() -> Console:
    """Standard error: progress, remarks, errors."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def show_error(message: str) -> None:
    """Write one line to standard error, however many `message` has."""
    err().print(Text.assemble(("error: ", "bold red"), " ".join(message.split())))
