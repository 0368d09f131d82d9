"""What threads wait for each other: words that go to and fro, barriers without work between, and claims of nothing."""

from __future__ import annotations

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.threads.atomics import atomic_load, atomic_store
from numoe.kernels.threads.team import Team, barrier, claimed


@kernel
def pass_word(word: int, mine: int, theirs: int, times: int) -> None:
    """So many times, wait without a pause until the int32 at `word` is `mine`, and set it to `theirs`."""
    for _ in range(times):
        while atomic_load(word) != mine:
            pass
        atomic_store(word, theirs)


@kernel
def pass_barriers(team: Team, times: int, pieces: int) -> int:
    """So many times, share `pieces` of no work out and wait for all; returns how many pieces the thread had."""
    had = 0
    for _ in range(times):
        for _ in claimed(team, pieces):
            had += 1
        barrier(team)
    return had
