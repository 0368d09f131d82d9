"""One of several processes whose threads gather through a shared block.

    python -m tests.kernels.threads.gather_process DESCRIPTOR WORKERS WORKER THREADS PHASES

writes the number of stale cells that each thread has read, and ends.
"""

from __future__ import annotations

import mmap
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.kernels.threads.teams import CELL_BYTES, TeamWords, cross_check

SHARED_BLOCK_BYTES = 64 * 1024
CELLS = 32 * 1024  # where the cells begin


def main() -> None:
    """Be one of the processes."""
    descriptor, workers, worker, threads, phases = (int(argument) for argument in sys.argv[1:])
    memory = np.frombuffer(mmap.mmap(descriptor, SHARED_BLOCK_BYTES), np.uint8)
    words = TeamWords(workers, memory)
    assert words.bytes < CELLS
    assert CELLS + workers * CELL_BYTES <= SHARED_BLOCK_BYTES

    def run(thread: int) -> int:
        return int(cross_check(words.team(worker, thread, threads), memory.ctypes.data + CELLS, worker, phases))

    with ThreadPoolExecutor(threads) as pool:
        sys.stdout.write(" ".join(str(stale) for stale in pool.map(run, range(threads))))


if __name__ == "__main__":
    main()
