"""How fast one core goes over keys and values: python -m bench.attention [--depths 16384,32768] [--heads 8,1]

One decoded token per KV head, over caches that no CPU cache holds. *GB/s* are bytes of keys and values; *of bandwidth*
is that over what the same core gets when it does nothing but read the same bytes, just before; *us/1000* is the time
for a thousand positions of one KV head. All times are those of the CPU: what it gave to other processes is left out.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

import numpy as np
from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.machine import cores, read_memory
from numoe.kernels.attention.heads import Queries, attend
from numoe.kernels.attention.kv_cache import KV_BLOCK, KV_FORMATS, kv_block_bytes
from numoe.kernels.attention.pieces import CachedHead
from numoe.kernels.attention.scratch import scratch_floats, scratch_of
from numoe.kernels.attention.value_tile import attention_tiles
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
from numoe.kernels.weights.formats import FORMATS, NUMBERS
from numoe.worker.placing.memory import allocate

app = App(help=__doc__)

CACHE_BYTES = 512 << 20  # of a measurement, sixteen times the last-level cache of a part of a server CPU
HEAD_SIZE = 128
PASSES = 5
A_SMALL_NUMBER = 0x38  # in every byte: numbers below one in each format, and no zeros or subnormals


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def measure(kv_format: str, depth: int, heads: int) -> tuple[float, float, float]:
    """Bytes per second of attention and of mere reading, and seconds per position of a KV head: medians of passes."""
    number, blocks = NUMBERS[kv_format], -(-depth // KV_BLOCK)
    size = kv_block_bytes(HEAD_SIZE, number, number)
    kv_heads = max(1, CACHE_BYTES // (blocks * size))
    cache = allocate(kv_heads * blocks * size)
    cache.fill(A_SMALL_NUMBER)
    tiles = attention_tiles([format_ for format_ in FORMATS if format_.name == kv_format], values=kv_format == "Q8_0")
    queries = np.random.default_rng(0).standard_normal((heads, HEAD_SIZE), np.float32) * np.float32(HEAD_SIZE**-0.5)
    position, sequence = np.full(1, depth - 1, np.int32), np.zeros(1, np.int32)
    table = np.arange(blocks, dtype=np.int32)[np.newaxis]
    token = Queries(queries.ctypes.data, queries.nbytes, position, sequence, table)
    memory = allocate(4 * scratch_floats(HEAD_SIZE, heads))
    scratch = scratch_of(memory.ctypes.data, HEAD_SIZE, heads)
    attending, reading = [], []
    into, chunks = np.zeros(16, np.float32), cache.size // 512
    for _ in range(PASSES + 1):
        started = time.process_time()
        read_memory(cache.ctypes.data, 128, 512, chunks, into.ctypes.data)
        reading.append(time.process_time() - started)
        started = time.process_time()
        for head in range(kv_heads):
            cached = CachedHead(cache.ctypes.data + head * size, kv_heads * size, number, number, HEAD_SIZE)
            attend(tiles, cached, token, 0, 1, heads, scratch)
        attending.append(time.process_time() - started)
    taken, least = statistics.median(attending[1:]), statistics.median(reading[1:])
    return cache.size / taken, cache.size / least, taken / (kv_heads * depth)


@app.default
def main(*, depths: str = "16384,32768", heads: str = "8,1") -> None:
    """Print the table.

    Parameters
    ----------
    depths
        Positions before the token.
    heads
        Query heads that share a KV head.
    """
    console, core = Console(), cores()[0]
    os.sched_setaffinity(0, {core})
    console.print(f"{platform.node()}, {INSTRUCTION_SET.name}, one core, {time.ctime()}", highlight=False)
    table = Table("keys and values", "heads", "depth", "GB/s", "of bandwidth", "us/1000")
    for shared in _numbers(heads):
        for depth in _numbers(depths):
            for kv_format in KV_FORMATS:
                rate, most, each = measure(kv_format, depth, shared)
                cells = (f"{rate / 1e9:.1f}", f"{rate / most:.0%}", f"{1e9 * each:.1f}")
                table.add_row(kv_format.lower(), str(shared), str(depth), *cells)
    console.print(table)


if __name__ == "__main__":
    app()
