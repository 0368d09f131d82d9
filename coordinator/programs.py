"""The programs of ours that the coordinator starts beside itself."""

from __future__ import annotations

import sys


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter, which imports nothing from the current folder (-P).

    Whoever serves a model stands in any folder: a file in it that is named like a module must not be run.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
