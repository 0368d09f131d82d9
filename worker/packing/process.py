"""The process that packs: python -m numoe.worker.packing.process < (ModelSpec, folder), pickled

It writes a line for every look at how far it is: bytes written so far. It ends at once when standard input does, as
whoever gave the order has ended then. Status 2 and one line on standard error where the operator must mend something.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time

from numoe.kernels.cpu.jit import sole_compiler
from numoe.kernels.weights.packing import compile_pack
from numoe.protos.errors import NumoeError
from numoe.worker.packing.writer import write_panels

_EXIT_SETUP = 2
REPORT_SECONDS = 0.1


def compile_packing() -> None:
    """Compile what packs, or take it from the cache, while no other process fills that."""
    with sole_compiler():
        compile_pack()


class Progress:
    """Tells standard output how much is written, ten times a second at most."""

    def __init__(self) -> None:
        self._done, self._next = 0, 0.0

    def __call__(self, size: int) -> None:
        self._done += size
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REPORT_SECONDS
            sys.stdout.write(f"{self._done}\n")
            sys.stdout.flush()


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Pack as ordered."""
    spec, folder = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_input, name="numoe-watch", daemon=True).start()
    try:
        compile_packing()
        write_panels(spec, folder, len(os.sched_getaffinity(0)), Progress())
    except (NumoeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(_EXIT_SETUP)
    os._exit(0)


if __name__ == "__main__":
    main()
