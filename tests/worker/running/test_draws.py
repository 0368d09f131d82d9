"""What a draw is told beside its sampling counts on real workers, and gives the same bits on any number of them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.protos.messages import NOT_DRAWN, Biases, Chunk, Sampling, StepResult
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.running.shard_process import ShardGroup, chunk, running_shards

PROMPT = (20, 4, 5, 9)
SHAPE = TinyShape()
DRAWN = Sampling(temperature=1.0, seed=3)
FILTERED = Sampling(
    temperature=1.3, seed=9, typical_p=0.8, top_n_sigma=3.0, xtc_probability=0.9, xtc_threshold=0.05,
    temperature_last=True, min_p=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subprocess.run([sys.executable, "-m", "numoe.worker.running.warm", "F32", "F16"], check=True)
    path = tmp_path_factory.mktemp("draws") / "tiny.gguf"
    write_tiny_model(path, SHAPE)
    return path


@pytest.fixture(scope="module", params=[((0,),), ((0, 1), (0,))], ids=["one worker", "two workers"])
def group(model: Path, request: pytest.FixtureRequest) -> Iterator[ShardGroup]:
    with running_shards(model, request.param) as running:
        yield running


def bits_of(*token_ids: int) -> NDArray[np.uint32]:
    allowed = np.zeros(-(-SHAPE.vocabulary // 32) * 32, bool)
    allowed[list(token_ids)] = True
    return np.packbits(allowed, bitorder="little").view(np.uint32)


def asked(sampling: Sampling = DRAWN, block: int = 0) -> Chunk:
    return chunk(0, PROMPT, (block,), sampling)


def bits(result: StepResult) -> tuple[list[int], bytes, list[list[int]], bytes]:
    alternatives = result.top_tokens.tolist(), result.top_logprobs.tobytes()
    return result.token_ids.tolist(), result.logprobs.tobytes(), *alternatives


def test_the_likeliest_are_told_of_those_who_ask_and_change_nothing(group: ShardGroup) -> None:
    plain = group.run(asked(), asked(block=1))
    told = group.run(replace(asked(), top=5), asked(block=1))
    assert (told.token_ids.tolist(), told.logprobs.tobytes()) == (plain.token_ids.tolist(), plain.logprobs.tobytes())
    logits = group.channel.logits()[0, : SHAPE.vocabulary].astype(np.float64)
    expected = np.argsort(-logits, kind="stable")[:5]
    assert told.top_tokens[0].tolist() == expected.tolist()
    np.testing.assert_allclose(told.top_logprobs[0], logits[expected] - np.logaddexp.reduce(logits), atol=1e-5)
    greedy = group.run(replace(asked(Sampling()), top=1))
    assert greedy.alternatives(0, 1) == ((greedy.token_ids[0], greedy.logprobs[0]),)
    assert plain.top_tokens.shape == (2, 0)


def test_a_bias_changes_what_is_drawn_and_not_what_is_told_of_it(group: ShardGroup) -> None:
    best, second = (token for token, _ in group.run(replace(asked(Sampling()), top=2)).alternatives(0, 2))
    for biases in (Biases(np.array([best], np.int32), np.array([-np.inf], np.float32)),
                   Biases(np.array([7, best], np.int32), np.array([-100, -100], np.float32), repeats=1)):  # fmt: skip
        result = group.run(replace(asked(Sampling()), biases=biases, top=2))
        assert result.token_ids.tolist() == [second]
        assert [token for token, _ in result.alternatives(0, 2)] == [best, second]
        assert result.alternatives(0, 2)[1][1] == result.logprobs[0]


def test_only_what_is_allowed_is_drawn_though_it_is_told_late(group: ShardGroup) -> None:
    free = group.run(asked())
    told, asked_for = threading.Event(), []

    def allowed() -> NDArray[np.uint32]:
        asked_for.append(group.channel.idle)
        told.wait(0.05)  # nobody sets it: workers come to the draw first
        return bits_of(8, 100)

    masked = replace(asked(), allowed=allowed)
    result = group.run(masked, asked(block=1))
    assert asked_for == [False]  # the workers were running
    assert result.token_ids[0] in (8, 100)
    assert result.token_ids[1] == free.token_ids[0]
    logits = group.channel.logits()[0, : SHAPE.vocabulary].astype(np.float64)
    told_of = logits[result.token_ids[0]] - np.logaddexp.reduce(logits)  # of the unmasked distribution
    assert abs(result.logprobs[0] - told_of) < 1e-5
    assert group.run(replace(asked(), allowed=bits_of)).token_ids.tolist() == [NOT_DRAWN]
    assert bits(group.run(asked())) == bits(free)


def test_a_token_that_is_given_is_told_of_and_not_drawn(group: ShardGroup) -> None:
    given = replace(asked(), draws=3, given=np.array([5, 9, 33], np.int32), top=2)
    result = group.run(given)
    assert result.token_ids.tolist() == [5, 9, 33]
    logits = group.channel.logits()[:, : SHAPE.vocabulary].astype(np.float64)
    expected = logits[range(3), [5, 9, 33]] - np.logaddexp.reduce(logits, axis=1)
    np.testing.assert_allclose(result.logprobs, expected, atol=1e-5)
    assert result.top_tokens.shape == (3, 2)


def test_any_number_of_workers_gives_the_same_bits(model: Path) -> None:
    biases = Biases(np.array([3, 9, 50], np.int32), np.array([2, -np.inf, -1], np.float32), repeats=1)
    chunks = (
        replace(asked(FILTERED), top=20),
        replace(asked(FILTERED, 1), biases=biases, allowed=lambda: bits_of(*range(0, SHAPE.vocabulary, 2)), top=3),
        replace(asked(block=2), draws=2, given=np.array([9, 1], np.int32)),
    )
    found = []
    for cpus in (((0,),), ((0, 1),), ((0,), (1,), (0,))):
        with running_shards(model, cpus) as running:
            found.append(bits(running.run(*chunks)))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == 4
