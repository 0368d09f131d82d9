"""Consecutive layers of a model, each part with workers of its own, give the bits that all of them give together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from numoe.model.architectures.spec import stage_of
from numoe.model.gguf.tensors import TensorType
from numoe.protos.messages import NOT_DRAWN, NOWHERE, Chunk, Sampling, StepResult
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.running.shard_process import ShardGroup, chunk, read_spec, running_shards

Cpus = Sequence[tuple[int, ...]]
ONE: Cpus = ((0,),)
TWO: Cpus = ((0, 1), (0,))
SHAPES = {
    "float, tied": TinyShape(layers=4, tied=True),
    "quantised": TinyShape(layers=4, type=TensorType.Q8_0),
}


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """By one process: two workers that find the cache empty would fill it at once."""
    subprocess.run([sys.executable, "-m", "numoe.worker.running.warm", "F32", "F16", "Q8_0"], check=True)


def steps() -> list[list[Chunk]]:
    """A prompt in two pieces, another one beside it, then tokens of both, drawn in all ways."""
    drawn = Sampling(temperature=0.9, top_k=30, top_p=0.95, seed=11)
    return [
        [chunk(0, (5, 6, 7, 8, 9), (0,))],
        [chunk(5, (10, 11), (0,), drawn), chunk(0, (3, 4, 5), (1,), Sampling())],
        [chunk(7, (12,), (0,), drawn), chunk(3, (6,), (1,), Sampling())],
        [chunk(8, (13,), (0,))],
    ]


def bits(result: StepResult) -> tuple[list[int], bytes, list[int]]:
    return result.token_ids.tolist(), result.logprobs.tobytes(), result.experts_run.tolist()


def run_through(groups: Sequence[ShardGroup], chunks: Sequence[Chunk]) -> StepResult:
    """One step through all parts; what each ran of experts is added up."""
    hidden, results = None, []
    for group in groups:
        results.append(group.run(*chunks, hidden=hidden))
        hidden = group.channel.hidden()
    assert not any(result.token_ids.size for result in results[:-1])
    return replace(results[-1], experts_run=np.sum([result.experts_run for result in results], axis=0))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_stages_give_the_bits_of_the_whole_model(shape: TinyShape, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path, shape)
    spec = read_spec(path)
    with running_shards(spec, TWO) as whole:
        expected = [bits(whole.run(*chunks)) for chunks in steps()]
        rows = whole.channel.hidden()
    for cuts, cpus in (((0, 1, 3, 4), (TWO, ONE, TWO)), ((0, 2, 4), (ONE, TWO))):
        with ExitStack() as stack:
            groups = [
                stack.enter_context(running_shards(stage_of(spec, *layers), own))
                for layers, own in zip(pairwise(cuts), cpus, strict=True)
            ]
            assert [bits(run_through(groups, chunks)) for chunks in steps()] == expected
            np.testing.assert_array_equal(groups[-1].channel.hidden().view(np.int32), rows.view(np.int32))


def test_what_comes_of_the_layers_before_is_looked_at_first(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path, TinyShape(layers=2))
    last = stage_of(read_spec(path), 1, 2)
    hidden = np.ones((3, last.width), np.float32)
    with running_shards(last, TWO) as group:
        assert group.run(chunk(0, (1, 2, 3), (0,), Sampling()), checked=True, hidden=hidden).not_finite == NOWHERE
        hidden[1, 7] = np.inf
        result = group.run(chunk(0, (1, 2, 3), (0,), Sampling()), checked=True, hidden=hidden)
        assert (result.not_finite, result.token_ids.tolist()) == (0, [NOT_DRAWN])
