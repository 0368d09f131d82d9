"""Weights that are finite, each by itself, but whose sums are not: nothing is drawn, and nobody else notices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numoe.model.gguf.tensors import TensorType
from numoe.protos.messages import NOT_DRAWN, NOWHERE, Chunk, Sampling, StepResult, place_of
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.running.shard_process import ShardGroup, chunk, read_spec, running_shards

BAD = 17  # the token whose row of the embedding is damaged
SHAPES = {
    "float": TinyShape(),
    "quantised": TinyShape(type=TensorType.Q8_0, types=(("token_embd", TensorType.F32),)),
}
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8, seed=5),
    Sampling(temperature=1.0, top_k=40, top_p=0.9, min_p=0.01, seed=6),
    Sampling(repetition_penalty=1.3, presence_penalty=0.5),
)
LARGE = 1e25  # its square is infinite


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """By one process: two workers that find the cache empty would fill it at once."""
    subprocess.run([sys.executable, "-m", "numoe.worker.running.warm", "F32", "F16", "Q8_0"], check=True)


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[TinyShape, str, int, float], Path]:
    """Write a model in which one row of a tensor of float32 is made of one value and its negative."""

    def write(shape: TinyShape, name: str, row: int, value: float) -> Path:
        path = tmp_path / "damaged.gguf"
        write_tiny_model(path, shape)
        spec = read_spec(path)
        [tensor] = (one for one in (spec.token_embedding, spec.output) if one.name == name)
        values = np.resize(np.array([value, -value], np.float32), shape.width)
        with path.open("r+b") as file:
            file.seek(tensor.offset + row * values.nbytes)
            file.write(values.tobytes())
        return path

    return write


def drawn(result: StepResult) -> list[tuple[int, bytes]]:
    """Tokens, and the bits of their log-probabilities."""
    return [(int(token), logprob.tobytes()) for token, logprob in zip(result.token_ids, result.logprobs, strict=True)]


def prompt(number: int, sampling: Sampling, last: int = 9) -> Chunk:
    """A prompt of its own for each number, and its KV block."""
    seen = np.array([3, 4, 5], np.int32)
    asked = chunk(0, (20 + number, 4, 5, last), (number,), sampling)
    return replace(asked, seen_tokens=seen, seen_counts=np.ones(3, np.int32)) if sampling.penalises else asked


@pytest.mark.parametrize(
    ("shape", "cpus"),
    [(SHAPES["float"], ((0,), (0,))), (SHAPES["quantised"], ((0,),))],
    ids=["float, two workers", "quantised, one worker"],
)
def test_a_request_whose_numbers_overflow_draws_nothing_and_others_what_they_draw_alone(
    shape: TinyShape, cpus: tuple[tuple[int, ...], ...], damaged: Callable[[TinyShape, str, int, float], Path]
) -> None:
    with running_shards(damaged(shape, "token_embd.weight", BAD, LARGE), cpus) as group:
        for sampling in SAMPLINGS:
            alone = [drawn(group.run(prompt(number, sampling)))[0] for number in range(4)]
            assert all(token != NOT_DRAWN for token, _ in alone)
            together = group.run(*(prompt(number, sampling, BAD if number in (1, 2) else 9) for number in range(4)))
            assert together.token_ids[1:3].tolist() == [NOT_DRAWN] * 2
            assert np.isnan(together.logprobs[1:3]).all()
            assert [drawn(together)[number] for number in (0, 3)] == [alone[0], alone[3]]
            later = [drawn(group.run(prompt(number, sampling)))[0] for number in range(4)]  # in the same blocks
            assert later == alone
            _assert_drawn_after(group, sampling)
        for first in ((BAD, 4, 5, 9), (20, 4, BAD, 9)):  # it draws nothing itself, and is only attended to
            assert group.run(chunk(0, first, (0,), Sampling())).token_ids.tolist() == [NOT_DRAWN]


def _assert_drawn_after(group: ShardGroup, sampling: Sampling) -> None:
    """A damaged token that was drawn spoils the next one, and not before."""
    first = group.run(prompt(0, sampling))
    assert first.token_ids[0] != NOT_DRAWN
    assert group.run(chunk(4, (BAD,), (0,), replace(Sampling(), seed=sampling.seed))).token_ids.tolist() == [NOT_DRAWN]


def test_one_infinite_logit_is_enough_whoever_computes_it(
    damaged: Callable[[TinyShape, str, int, float], Path],
) -> None:
    """The last one, by the second worker, while the first one draws."""
    with running_shards(damaged(TinyShape(), "output.weight", 330, 3e38), ((0,), (0,))) as group:
        for sampling in SAMPLINGS:
            assert group.run(prompt(0, sampling)).token_ids.tolist() == [NOT_DRAWN]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("token_embd.weight", "the attention of layer 0"),  # whose norm squares what is finite still
        ("blk.0.attn_output.weight", "the attention of layer 0"),
        ("blk.1.ffn_down_exps.weight", "the feed-forward of layer 1"),
        ("output.weight", "the output layer"),
    ],
)
def test_a_checked_step_tells_where_numbers_stop_to_be_finite(
    name: str, place: str, workers: int, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.gguf"
    write_tiny_model(path, TinyShape())
    spec = read_spec(path)
    tensors = [spec.token_embedding, spec.output]
    tensors += [getattr(layer, field) for layer in spec.layer_tensors for field in layer.__dataclass_fields__]
    [tensor] = (one for one in tensors if one is not None and one.name == name)
    with path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.full(int(np.prod(tensor.shape)), 3e38, np.float32).tobytes())
    with running_shards(path, ((0,),) * workers) as group:
        asked = chunk(0, (20, 4, 5, 9), (0,), Sampling())
        plain = group.run(asked)
        assert (plain.token_ids.tolist(), plain.not_finite) == ([NOT_DRAWN], NOWHERE)
        checked = group.run(asked, checked=True)
        assert (checked.token_ids.tolist(), place_of(checked.not_finite)) == ([NOT_DRAWN], place)
