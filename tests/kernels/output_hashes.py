"""What the kernels compute from fixed inputs, as hashes, so that two instruction sets can be compared.

    NUMOE_ISA=portable python -m tests.kernels.output_hashes

writes the instruction set and one hash per kernel as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.activations import rms_norm, write_integer_column
from numoe.kernels.embedding import embed_row
from numoe.kernels.formats import FORMATS
from numoe.kernels.jit import INSTRUCTION_SET
from numoe.kernels.rope import rope_table, rotate
from numoe.kernels.router import choose_experts
from numoe.kernels.sampling import draw, log_sum_exp
from numoe.kernels.tiles import BLOCK, ROWS, WIDTHS
from numoe.protos.arena import SAMPLE
from tests.kernels.numeric import SEED, address, group_bytes, packed, random_rows, run_tile
from tests.kernels.paged_cache import empty_cache
from tests.kernels.vector_maps import map_exp, map_silu

Array = NDArray[Any]


def tiles(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    for format_ in FORMATS:
        for columns in WIDTHS:
            panel = packed(format_, random_rows(format_, ROWS, 9, random))[0]
            x = random.standard_normal((columns, 9 * BLOCK), np.float32)
            group = np.zeros(columns * 9 * group_bytes(format_.integer), np.uint8)
            if format_.integer:
                for column in range(columns):
                    write_integer_column(address(group), columns, column, address(x[column]), 9)
            else:
                group.view(np.float32)[:] = x.reshape(-1)
            yield f"tile {format_.name} {columns}", run_tile(format_, panel, group, columns)


def vectors(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    x = (random.standard_normal(1 << 16) * 30).astype(np.float32)
    for name, function in (("exp", map_exp), ("silu", map_silu)):
        out = np.zeros_like(x)
        function(out, x)
        yield name, out
    normed, weight = x[:4096].copy(), random.standard_normal(4096, np.float32)
    rms_norm(address(normed), address(weight), 4096, 1e-6)
    yield "rms_norm", normed
    group = np.zeros(40 * 128, np.uint8)
    write_integer_column(address(group), 1, 0, address(x), 128)
    yield "write_integer_column", group
    for neox in (0, 1):
        head = x[:128].copy()
        rotate(head, rope_table(1000, 128, 1e6)[999], 128, neox)
        yield f"rotate {neox}", head
    for format_ in FORMATS:
        row, embedded = random_rows(format_, 1, 4, random), np.zeros(4 * BLOCK, np.float32)
        embed_row(address(embedded), address(row), format_.number, embedded.size)
        yield f"embed_row {format_.name}", embedded


def attention(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    keys, values = random.standard_normal((2, 700, 64), np.float32)
    for half in (True, False):
        cache = empty_cache(64, half, range(11))
        cache.store(0, keys, values)
        yield f"cache {half}", cache.blocks
        for columns in WIDTHS:
            queries = random.standard_normal((columns, 64), np.float32)
            yield f"attend {half} {columns}", cache.attend(queries, 699, columns)


def choices(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    chosen, shares = np.zeros((50, 8), np.int32), np.zeros((50, 8), np.float32)
    for token in range(50):
        choose_experts(chosen[token], shares[token], random.standard_normal(128, np.float32) * 3, 128)
    yield "chosen", chosen
    yield "shares", shares
    logits = (random.standard_normal(4096) * 4).astype(np.float32)
    yield "log_sum_exp", np.array([log_sum_exp(logits)])
    tokens = np.zeros((50, 2), np.int32)
    for seed, filtered in np.ndindex(tokens.shape):
        sample = np.zeros(1, SAMPLE)[0]
        sample["temperature"], sample["top_p"], sample["seed"] = 0.9, 0.95 if filtered else 1.0, seed
        tokens[seed, filtered] = draw(logits.copy(), np.zeros(4096, np.int32), sample, 4090)
    yield "draw", tokens


def main() -> None:
    hashes = {"instruction set": INSTRUCTION_SET}
    for outputs in (tiles, vectors, attention, choices):
        for name, output in outputs(np.random.default_rng(SEED)):
            hashes[name] = hashlib.sha256(np.ascontiguousarray(output).tobytes()).hexdigest()
    json.dump(hashes, sys.stdout)


if __name__ == "__main__":
    main()
