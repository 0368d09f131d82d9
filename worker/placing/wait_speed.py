"""Measures how fast cores pass a cache line on, and what threads wait for each other; see model/machine/waits.py.

    python -m numoe.worker.placing.wait_speed TASK

TASK is the JSON of a WaitTask. The process says "ready" when the kernels are compiled, waits for a line, measures, and
answers with a line of JSON. It ends early where its standard input does.

Threads wait here as those of workers do. Where other programs hold the cores, all of it takes some thousand times
longer: then fewer samples are taken.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from numoe.kernels.cpu.jit import compile_for, sole_compiler
from numoe.kernels.threads.latency import pass_barriers, pass_word
from numoe.kernels.threads.profile import STATE_BYTES
from numoe.kernels.threads.team import LONE, Team
from numoe.worker.placing.memory import allocate
from numoe.worker.placing.read_speed import answer_when_told
from numoe.worker.placing.thread_groups import membership, team_words, thread_groups

SAMPLES = 5  # their median counts
LONG_SECONDS = 0.3  # for the samples of one figure, of which there are then no more
PASSES, BARRIERS = 500, 1000  # of a sample: 0.1 to 0.3 ms, and 0.2 to 3
PIECES = 4  # of no work, a thread
SPINS = 5000  # before sleeping


@dataclass(frozen=True, slots=True)
class WaitTask:
    """What to measure."""

    pairs: Sequence[tuple[str, int, int]]  # how far apart, and two CPUs
    teams: list[list[int]]  # CPUs


def measure(task: WaitTask) -> dict[str, object]:
    """Carry out the task, and return the process's answer: seconds."""
    passes: dict[str, list[float]] = {}
    for apart, one, other in task.pairs:
        passes.setdefault(apart, []).append(_pass_seconds(one, other))
    teams = []
    for cpus in task.teams:
        alone, claiming = (_phase_seconds(cpus, pieces) for pieces in (0, PIECES * len(cpus)))
        teams.append({"threads": len(cpus), "barrier": alone, "claims": max(0.0, claiming - alone)})
    return {"passes": {apart: statistics.median(found) for apart, found in passes.items()}, "teams": teams}


def _pass_seconds(one: int, other: int) -> float:
    """One way of a word between two CPUs."""
    word = allocate(64).view(np.int32)
    place = word.ctypes.data

    def play(thread: int) -> None:
        pass_word(place, thread, 1 - thread, PASSES)

    return _seconds([one, other], play) / (2 * PASSES)


def _phase_seconds(cpus: Sequence[int], pieces: int) -> float:
    """One phase of threads on some CPUs, that share out pieces of no work."""
    groups = thread_groups(cpus)
    words, signs, states = team_words(groups), allocate(128), allocate(STATE_BYTES * len(cpus))

    def wait(thread: int) -> None:
        team = Team(
            **membership(words, groups, thread),
            shared=0,
            abort=signs.ctypes.data,
            signs=signs.ctypes.data + 64,
            profile=states.ctypes.data + STATE_BYTES * thread,
            workers=1,
            spins=SPINS,
            timeout_ns=0,
        )
        pass_barriers(team, BARRIERS, pieces)

    return _seconds(cpus, wait) / BARRIERS


def _seconds(cpus: Sequence[int], run: Callable[[int], None]) -> float:
    """The median time of samples of `run(thread)`, on all CPUs at once, after one that does not count."""
    times = np.full((len(cpus), SAMPLES + 1, 2), np.nan)
    together = threading.Barrier(len(cpus))

    def work(thread: int) -> None:
        os.sched_setaffinity(0, {cpus[thread]})  # 0: this thread alone
        for sample in range(SAMPLES + 1):
            together.wait()
            if sample > 1 and times[0, sample - 1, 1] - times[0, 0, 0] > LONG_SECONDS:
                break
            times[thread, sample, 0] = time.perf_counter()
            run(thread)
            times[thread, sample, 1] = time.perf_counter()

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Threads begin some 50 us apart: from the last one's start on they all run.
    return float(np.nanmedian(times[:, 1:, 1].max(axis=0) - times[:, 1:, 0].max(axis=0)))


def main() -> None:
    """Get ready, measure when told to, and answer."""
    task = WaitTask(**json.loads(sys.argv[1]))
    with sole_compiler():
        compile_for(pass_word, 0, 0, 0, 0)
        compile_for(pass_barriers, LONE, 0, 0)
    answer_when_told(lambda: measure(task))


if __name__ == "__main__":
    main()
