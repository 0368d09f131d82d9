"""Measures how fast each node's cores read one node's memory; a process bound to that memory, as workers are.

    python -m numoe.worker.placing.binding NODE CPUS python -m numoe.worker.placing.read_speed TASK

TASK is the JSON of a ReadingTask. The process says "ready" when the kernel is compiled, waits for a line, measures,
and answers with a line of JSON: the share of the buffer's pages that lie on the node (null if the kernel does not
tell), and bytes per second by node of the reading cores. It ends early where its standard input does.

The cores read their slices over and over while the main thread looks at their counters, so that neither the threads'
starts nor their ends are part of what is timed.
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
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import compile_for, sole_compiler
from numoe.kernels.threads.reader import WINDOW_BYTES, read_until
from numoe.model.machine.memory_policy import nodes_of_pages
from numoe.protos.locality import PAGE
from numoe.worker.placing.memory import allocate

SAMPLES = 3  # intervals; their median counts
SETTLE_SECONDS = 0.01  # from all threads reading to the first look
START_SECONDS = 10.0  # longest wait until all threads read
SAMPLED_PAGES = 512
COUNTER_WORDS = 16  # int32 of a cache line: every thread counts in one of its own


@dataclass(frozen=True, slots=True)
class ReadingTask:
    """What to measure."""

    node: int  # of the memory
    bytes: int  # of the buffer, all threads together
    touching: list[int]  # CPUs that write it first: the node's own, as memory lies there where policies are refused
    readers: list[tuple[int, list[int]]]  # node, and the CPUs of it that read together
    seconds: float  # for each reader


def measure(task: ReadingTask) -> dict[str, object]:
    """Carry out the task, and return the process's answer."""
    buffer = allocate(-(-task.bytes // WINDOW_BYTES) * WINDOW_BYTES)
    _touch(buffer, task.touching)
    placed = _share_on(buffer, task.node)
    rates = {}
    for node, cpus in task.readers:
        rates[node] = max(_rate(buffer, cpus, streams, task.seconds / 2) for streams in (1, 4))
    return {"placed": placed, "rates": rates}


def _touch(buffer: NDArray[np.uint8], cpus: Sequence[int]) -> None:
    """Write every page, a slice from each CPU; memory that was only read would all be the kernel's page of zeros."""

    def write(thread: int) -> None:
        os.sched_setaffinity(0, {cpus[thread]})  # 0: this thread alone
        buffer[buffer.size * thread // len(cpus) : buffer.size * (thread + 1) // len(cpus)].fill(1)

    _join([threading.Thread(target=write, args=(thread,)) for thread in range(len(cpus))])


def _share_on(buffer: NDArray[np.uint8], node: int) -> float | None:
    """The share of the buffer's pages that lie on a node; None where the kernel does not tell."""
    pages = buffer.size // PAGE
    chosen = [pages * step // SAMPLED_PAGES for step in range(SAMPLED_PAGES)]
    try:
        nodes = nodes_of_pages([buffer.ctypes.data + page * PAGE for page in chosen])
    except OSError:  # of containers: the kernel does not tell
        return None
    return nodes.count(node) / len(nodes)


def _rate(buffer: NDArray[np.uint8], cpus: Sequence[int], streams: int, seconds: float) -> float:
    """Bytes per second that these CPUs read together."""
    windows = max(1, buffer.size // WINDOW_BYTES // len(cpus))
    places = buffer.size // WINDOW_BYTES  # fewer windows than threads: some read the same one
    counters = np.zeros((len(cpus), COUNTER_WORDS), np.int32)
    stop, sums = np.zeros(COUNTER_WORDS, np.int32), np.zeros((len(cpus), 16), np.float32)

    def read(thread: int) -> None:
        os.sched_setaffinity(0, {cpus[thread]})
        start = buffer.ctypes.data + thread * windows % places * WINDOW_BYTES
        out, done = sums[thread].ctypes.data, counters[thread].ctypes.data
        read_until(start, windows, streams, out, done, stop.ctypes.data)

    threads = [threading.Thread(target=read, args=(thread,)) for thread in range(len(cpus))]
    for thread in threads:
        thread.start()
    end = time.perf_counter() + START_SECONDS
    while not counters[:, 0].all() and time.perf_counter() < end:
        time.sleep(SETTLE_SECONDS / 10)
    time.sleep(SETTLE_SECONDS)
    looks = [_look(counters)]
    for _ in range(SAMPLES):
        time.sleep(seconds / SAMPLES)
        looks.append(_look(counters))
    stop[0] = 1
    for thread in threads:
        thread.join()
    rates = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in pairwise(looks)]
    return statistics.median(rates) * WINDOW_BYTES


def _look(counters: NDArray[np.int32]) -> tuple[float, int]:
    """The time, and the windows that all threads have read."""
    return time.perf_counter(), int(counters[:, 0].sum())


def _join(threads: Sequence[threading.Thread]) -> None:
    """Start threads and wait until all have ended."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def answer_when_told(measure: Callable[[], dict[str, object]]) -> None:
    """Say that all is ready, and measure once a line comes: what a measuring process does when it has compiled."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if sys.stdin.readline():
        sys.stdout.write(json.dumps(measure()) + "\n")


def main() -> None:
    """Get ready, measure when told to, and answer."""
    task = ReadingTask(**json.loads(sys.argv[1]))
    with sole_compiler():
        compile_for(read_until, 0, 0, 0, 0, 0, 0)
    answer_when_told(lambda: measure(task))


if __name__ == "__main__":
    main()
