"""Another process that takes what it gets of one core, as a neighbour on a shared machine does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PROGRAM = "import os\nos.sched_setaffinity(0, {%d})\nprint(flush=True)\nwhile True: pass"


@contextmanager
def busy(cpu: int) -> Iterator[None]:
    """One endless loop, bound to `cpu`, at this process's priority, while the context lasts."""
    with subprocess.Popen([sys.executable, "-c", _PROGRAM % cpu], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs
        try:
            yield
        finally:
            process.kill()
