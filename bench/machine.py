"""The most this machine can do: python -m bench.machine

Two figures that everything else is a share of, measured with one pinned thread per core, all at once:

*read bandwidth*: bytes per second of loads of 64 bytes from memory that no cache holds, each thread from its own node;
*integer peak*: operations (2 per product and addition) per second and core of the tiles' products, into independent
sums, with the activations in registers and one load of weights for all sums.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cyclopts import App
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from numoe.kernels.cpu.arithmetic import splat
from numoe.kernels.cpu.dots import BYTE_PAIRS, REGISTER, byte_pairs, dot2, dot4
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET, runnable
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.llvm import I32, V16I32, V32I16, V64U8, constant_of, joined, load_splat, offset, pointer
from numoe.kernels.matmul.tile_operations import map_columns, tile_scale, tile_store, tile_zero_i32
from numoe.kernels.threads.reader import read_memory
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.worker.placing.memory import allocate

app = App(help=__doc__)

CACHE_MULTIPLE = 8  # the buffers together are this many times all last-level caches
LEAST_BYTES = 256 << 20  # per thread: a pass over it takes 5 ms and more, against 50 us between the threads' starts
PASSES = 12  # measurements of either figure
DOT_OPERATIONS = 128  # 16 lanes, 4 products and 4 additions each
# Independent sums that registers hold: a product-sum takes 4 to 5 cycles, two can start in each. Sets of 256 bits have
# 16 registers, and a sum takes two of them; the portable one may get either, and spilled sums only cost it itself.
SUMS = 5 if INSTRUCTION_SET.name.startswith("avx") and "512" not in INSTRUCTION_SET.name else 12
KEPT = 4  # different activations
WEIGHT_REGISTERS = 64  # 4 kB: in the first cache
DOTS = 1 << 22  # per measurement: some 10 ms

# One thread's part of a measurement: prepares itself, and returns what is timed.
Preparation = Callable[[], Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Rate:
    """Something per second."""

    median: float
    best: float


def cores(topology: Topology | None = None) -> tuple[int, ...]:
    """The first CPU of every core that this process may use."""
    nodes = (topology or read_topology()).nodes
    return tuple(core[0] for node in nodes for core in node.cores)


def _accumulate(typing_context: Any, tile: Any, weights: Any, x: Any) -> Any:
    """tile[c] += the 64 bytes at `weights` * the 4 values at `x` + 4 * (c % KEPT); sums of words where BYTE_PAIRS."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, place, activations = values
        for column in range(tile.columns):
            four = load_splat(builder, offset(builder, activations, 4 * (column % KEPT)), V16I32)
            total = builder.extract_value(sums, column)
            if BYTE_PAIRS:
                pairs = [_pairs(builder, place, four, start) for start in range(0, 64, REGISTER.count)]
                words = builder.bitcast(joined(builder, *pairs), V32I16)
                total = builder.bitcast(builder.add(builder.bitcast(total, V32I16), words), V16I32)
            else:
                row = builder.load(pointer(builder, place, V64U8), align=1)
                total = dot4(builder, total, row, builder.bitcast(four, V64U8))
            sums = builder.insert_value(sums, total, column)
        return sums

    return tile(tile, types.uintp, types.uintp), code


def _pairs(builder: Any, place: Any, four: Any, start: int) -> Any:
    row = builder.load(pointer(builder, offset(builder, place, start), REGISTER), align=1)
    lanes = ir.VectorType(I32, REGISTER.count // 4)
    x = builder.shuffle_vector(four, four, constant_of(lanes, 0))
    return builder.bitcast(byte_pairs(builder, row, builder.bitcast(x, REGISTER)), lanes)


accumulate = intrinsic(_accumulate)


def _widened(typing_context: Any, tile: Any) -> Any:
    """The sums of 32 bits, of sums of words."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        zero, ones = constant_of(V16I32, 0), constant_of(V16I32, 0x00010001)
        if not BYTE_PAIRS:
            return values[0]
        return map_columns(builder, tile, values[0], lambda c, words: dot2(builder, zero, words, ones))

    return tile(tile), code


widened = intrinsic(_widened)


@kernel
def multiply(weights: int, x: int, out: int, count: int) -> None:
    """`count` times SUMS independent products."""
    tile = tile_zero_i32(SUMS)
    for step in range(count):
        tile = accumulate(tile, weights + 64 * (step & (WEIGHT_REGISTERS - 1)), x)
    tile_store(tile_scale(widened(tile), splat(np.float32(1.0))), out, 64)


def read_bandwidth(cpus: tuple[int, ...], bytes_per_thread: int | None = None) -> Rate:
    """Bytes per second that threads on these CPUs read together; the better of one and four streams per thread."""
    caches = read_topology().caches
    last = max((cache.level for cache in caches), default=0)
    cached = sum(cache.bytes for cache in caches if cache.level == last)
    wanted = bytes_per_thread or max(LEAST_BYTES, CACHE_MULTIPLE * cached // len(cpus))
    size = wanted // 512 * 512

    def prepare(one_stream: bool) -> Callable[[], None]:
        buffer, out = allocate(size), np.zeros(16, np.float32)
        buffer.fill(0)  # written: memory that was only read would all be the kernel's one page of zeros
        start, into = buffer.ctypes.data, out.ctypes.data
        gap, stride = (128, 512) if one_stream else (size // 4, 128)
        return lambda: _read(buffer, out, start, gap, stride, size // 512, into)

    rates = [_rate(cpus, lambda one=one: prepare(one), size * len(cpus)) for one in (True, False)]  # type: ignore[misc]
    return max(rates, key=lambda rate: rate.median)


def _read(
    buffer: NDArray[np.uint8], out: NDArray[np.float32], start: int, gap: int, stride: int, count: int, into: int
) -> None:
    del buffer, out  # held until here, since the kernel knows addresses only
    read_memory(start, gap, stride, count, into)


def integer_peak(cpus: tuple[int, ...], dots: int = DOTS) -> Rate:
    """Operations per second of one core, this process's instruction set, while all these CPUs compute."""

    def prepare() -> Callable[[], None]:
        weights = np.arange(64 * WEIGHT_REGISTERS, dtype=np.uint8)
        x, out = np.ones(4 * KEPT, np.uint8), np.zeros((SUMS, 16), np.float32)
        count = max(1, dots // SUMS)

        def run() -> None:
            multiply(weights.ctypes.data, x.ctypes.data, out.ctypes.data, count)

        return run

    return _rate(cpus, prepare, max(1, dots // SUMS) * SUMS * DOT_OPERATIONS)


def _rate(cpus: tuple[int, ...], prepare: Preparation, amount: float) -> Rate:
    """`amount` over the time from the first start to the last end, of PASSES passes after a first one."""
    barrier = threading.Barrier(len(cpus))
    times = np.zeros((len(cpus), PASSES + 1, 2))

    def work(thread: int) -> None:
        os.sched_setaffinity(0, {cpus[thread]})  # 0: this thread alone
        run = prepare()
        for number in range(PASSES + 1):
            barrier.wait()
            times[thread, number, 0] = time.perf_counter()
            run()
            times[thread, number, 1] = time.perf_counter()

    compiling = prepare()  # compiled by one thread
    compiling()
    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = (times[:, :, 1].max(axis=0) - times[:, :, 0].min(axis=0))[1:]
    return Rate(amount / statistics.median(seconds), amount / float(seconds.min()))


def peaks_of_all() -> dict[str, Rate]:
    """The integer peak by instruction set, each measured in a process of its own: a process compiles for one."""
    found = {}
    for one in runnable():
        environment = {**os.environ, "NUMOE_ISA": one.name}
        command = [sys.executable, "-m", "bench.machine", "peak"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[one.name] = Rate(**json.loads(done.stdout))
    return found


@app.command
def peak() -> None:
    """Print the integer peak of one core as JSON, of the instruction set in NUMOE_ISA or else of the best."""
    rate = integer_peak(cores())
    sys.stdout.write(json.dumps({"median": rate.median, "best": rate.best}))


@app.default
def main() -> None:
    """Print the machine's bandwidth and its integer peaks."""
    console = Console()
    cpus = cores()
    console.print(f"{platform.node()}, {len(cpus)} cores, {time.ctime()}")
    reads = Table("threads", "read GB/s, median", "best")
    for count in sorted({1, len(cpus)}):
        rate = read_bandwidth(cpus[:count])
        reads.add_row(str(count), f"{rate.median / 1e9:.1f}", f"{rate.best / 1e9:.1f}")
    peaks = Table("instruction set", "GOP/s per core, median", "best")
    for name, rate in peaks_of_all().items():
        peaks.add_row(name, f"{rate.median / 1e9:.0f}", f"{rate.best / 1e9:.0f}")
    console.print(reads)
    console.print(peaks)


if __name__ == "__main__":
    app()
