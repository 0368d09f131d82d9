"""What the kernels compute from fixed inputs, as hashes, so that two instruction sets can be compared.

    NUMOE_ISA=portable python -m tests.kernels.output_hashes

writes one hash per kernel as JSON. Instruction sets differ in their widths and in the form of their groups, so columns
are compared, in tiles of 1, 2, 4 and 8 columns or of the widest there is.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.hadamard import hadamard
from numoe.kernels.attention.kv_cache import KV_FORMATS
from numoe.kernels.attention.rope import rope_table, rotate
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
from numoe.kernels.experts.router import PARTS, choose_experts
from numoe.kernels.matmul.activations import write_float_column, write_integer_column
from numoe.kernels.matmul.groups import INTEGER_BYTES, WIDEST
from numoe.kernels.matmul.vectors import rms_norm
from numoe.kernels.records import BUCKETS, LISTED, TOGETHER
from numoe.kernels.step.alternatives import list_alternatives
from numoe.kernels.step.sampling import draw, log_sum_exp
from numoe.kernels.step.worst import DrawMemory
from numoe.kernels.weights.embedding import embed_row
from numoe.kernels.weights.file_blocks import UNPACKED_BYTES
from numoe.kernels.weights.formats import BLOCK, FORMATS, NUMBERS, ROWS
from numoe.protos.arena import SAMPLE
from tests.kernels import reference
from tests.kernels.attention.paged_cache import empty_cache
from tests.kernels.numeric import SEED, Bytes, Singles, address, group_bytes, packed, random_rows, run_tile
from tests.kernels.vector_maps import map_exp, map_silu

Array = NDArray[Any]
COLUMNS, VALUES = 8, 768
CACHES = (*KV_FORMATS, "Q8_0/F16", "F16/Q8_0")  # of keys and values


def group_of(integer: bool, x: Singles) -> Bytes:
    """As the kernels themselves write it."""
    columns, blocks = len(x), x.shape[1] // BLOCK
    group = np.zeros(columns * blocks * group_bytes(integer), np.uint8)
    write = write_integer_column if integer else write_float_column
    for column, values in enumerate(x):
        write(address(group), columns, column, address(values), blocks)
    return group


def formats(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Panels, products of tiles and embedding rows of every format."""
    x = random.standard_normal((COLUMNS, VALUES), np.float32)
    for format_ in FORMATS:
        rows = random_rows(format_, ROWS, VALUES, random)
        [panel] = packed(format_, rows)
        yield f"panel {format_.name}", panel
        for width in (1, 2, 4, 8):
            own = min(width, WIDEST)
            tiles = [
                run_tile(format_, panel, group_of(format_.integer, x[first : first + own]), own)
                for first in range(0, COLUMNS, own)
            ]
            yield f"tile {format_.name} {width}", np.concatenate(tiles)
        embedded = np.zeros(VALUES, np.float32)
        embed_row(embedded, rows[0], NUMBERS[format_.name], np.zeros(UNPACKED_BYTES, np.uint8))
        yield f"embed_row {format_.name}", embedded


def vectors(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Functions of vectors, and vectors rounded or rotated."""
    x = (random.standard_normal(1 << 16) * 30).astype(np.float32)
    for name, function in (("exp", map_exp), ("silu", map_silu)):
        out = np.zeros_like(x)
        function(out, x)
        yield name, out
    normed, weight = x[:4096].copy(), random.standard_normal(4096, np.float32)
    rms_norm(address(normed), address(weight), 4096, 1e-6)
    yield "rms_norm", normed
    group = np.zeros(INTEGER_BYTES * 128, np.uint8)
    write_integer_column(address(group), 1, 0, address(x), 128)
    yield "write_integer_column", reference.integer_columns(group, 1, 128)
    for neox in (0, 1):
        head = x[:128].copy()
        rotate(head, rope_table(1000, 128, 1e6)[999], 128, neox)
        yield f"rotate {neox}", head


def attention(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Caches of every format, and attention over them."""
    keys, values = random.standard_normal((2, 700, 64), np.float32)
    queries = random.standard_normal((COLUMNS, 64), np.float32)
    spread = random.standard_normal((4, 128), np.float32)
    for row in spread:
        hadamard(address(row), len(row))
    yield "hadamard", spread
    for kv_format in CACHES:
        cache = empty_cache(64, kv_format, range(11))
        cache.store(0, keys, values)
        yield f"cache {kv_format}", cache.blocks
        yield f"attend {kv_format}", cache.attend(queries, 699)
        for width in (1, 2, 4, 8):
            own = min(width, WIDEST)
            heads = [cache.attend_pieces(queries[first : first + own], 699, own) for first in range(0, COLUMNS, own)]
            yield f"attend {kv_format} {width}", np.concatenate(heads)


def choices(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Experts that are chosen, and tokens that are drawn."""
    chosen, shares = np.zeros((50, 8), np.int32), np.zeros((50, 8), np.float32)
    for token in range(50):
        logits, fewest = random.standard_normal((PARTS, 128), np.float32), token % 4
        choose_experts(chosen[token], shares[token], logits, 128, 1 + fewest, np.float32(0.25 * fewest))
    yield "chosen", chosen
    yield "shares", shares
    row = (random.standard_normal(4096) * 4).astype(np.float32)
    groups = np.zeros((2, len(row) // TOGETHER), np.float32)
    listed = np.zeros(LISTED, np.float32), np.zeros(LISTED, np.int32)
    memory = DrawMemory(groups[0], groups[1], *listed, np.zeros((2, BUCKETS)))
    yield "log_sum_exp", np.array([log_sum_exp(row, memory.maxima)])
    likeliest, logprobs = np.zeros(20, np.int32), np.zeros(20, np.float32)
    list_alternatives(likeliest, logprobs, 20, row, memory, 3.0)
    yield "likeliest", likeliest
    yield "logprobs", logprobs
    tokens = np.zeros((50, 4), np.int32)
    for seed, filtered in np.ndindex(tokens.shape):
        sample = np.zeros(1, SAMPLE)[0]
        sample["temperature"], sample["top_p"], sample["seed"] = 0.9, 0.95 if filtered else 1.0, seed
        sample["top_k"], sample["typical_p"] = 20 if filtered == 2 else 0, 0.7 if filtered == 3 else 1.0
        if filtered == 3:
            sample["top_n_sigma"], sample["xtc_probability"], sample["temperature_last"] = 3.0, 0.5, 1
        log_sum_exp(row, memory.maxima)
        tokens[seed, filtered] = draw(row.copy(), memory, sample, 4090)
    yield "draw", tokens


def main() -> None:
    """Write the hashes."""
    hashes = {"instruction set": INSTRUCTION_SET.name}
    for outputs in (formats, vectors, attention, choices):
        for name, output in outputs(np.random.default_rng(SEED)):
            hashes[name] = hashlib.sha256(np.ascontiguousarray(output).tobytes()).hexdigest()
    json.dump(hashes, sys.stdout)


if __name__ == "__main__":
    main()
