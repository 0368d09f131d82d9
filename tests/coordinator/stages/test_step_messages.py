"""Steps come out of the stream as they went in, to the bit, or not at all."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from numoe.coordinator.stages.step_messages import (
    MASK_BYTES,
    largest_message,
    read_answer,
    read_step,
    write_answer,
    write_step,
)
from numoe.protos.errors import ServiceError
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import BIAS_ROOM, Biases, Chunk, Sampling, Step, StepLimits, StepResult
from numoe.v1 import stage_pb2

WIDTH = 32
EVERYTHING = Sampling(0.75, 20, 0.5, 0.25, 1.5, -0.5, 2.0, 2**64 - 3, 0.5, 1.5, 0.25, 0.75, True)


def ints(*values: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.array(values, np.int32)


def mask() -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    return np.array([0, 2**32 - 1, 5], np.uint32)


BIASES = Biases(ints(3, 8), np.array([-np.inf, 0.5], np.float32), 1)
STEP = Step(
    7,
    (
        Chunk(0, ints(5, 2**31 - 1), ints(3)),
        Chunk(
            70, ints(9), ints(1, 2), EVERYTHING, ints(4, 5), ints(0, 2), ExpertReduction(6, 0.25), 1, BIASES, mask, 20
        ),
        Chunk(0, ints(1), ints(9), EVERYTHING, given=ints(2), source_block=0),
    ),
    checked=True,
)


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)  # type: ignore[attr-defined,arg-type]
    if isinstance(one, Biases):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(Biases))
    return same(one(), other()) if callable(one) and callable(other) else one == other


def test_a_step_comes_out_as_it_went_in() -> None:
    rows = np.random.default_rng(1).standard_normal((4, WIDTH), np.float32)
    rows[0, :3] = np.inf, -0.0, np.nan
    sent = write_step(STEP, rows)
    step, hidden = read_step(stage_pb2.StageStep.FromString(sent.SerializeToString()), WIDTH)
    assert hidden.tobytes() == rows.tobytes()
    assert (step.number, step.checked, len(step.chunks)) == (7, True, 3)
    for found, chunk in zip(step.chunks, STEP.chunks, strict=True):
        for field in fields(Chunk):
            assert same(getattr(found, field.name), getattr(chunk, field.name)), field.name


def test_an_answer_comes_out_as_it_went_in() -> None:
    result = StepResult(3, ints(-1, 8), np.array([np.nan, -0.5], np.float32), np.array([16, 2**40]), 0.0, 9)
    result = replace(result, top_tokens=ints(4, 3, 2, 1).reshape(2, 2), top_logprobs=np.zeros((2, 2), np.float32))
    sent = write_answer(result)
    found = read_answer(stage_pb2.StageAnswer.FromString(sent.SerializeToString()))
    for field in fields(StepResult):
        one, other = getattr(found, field.name), getattr(result, field.name)
        assert one.tobytes() == other.tobytes() if isinstance(other, np.ndarray) else one == other, field.name


def test_activations_that_changed_on_their_way_or_are_not_all_there_are_refused() -> None:
    rows = np.ones((4, WIDTH), np.float32)
    sent = write_step(STEP, rows)
    changed = bytearray(sent.hidden)
    changed[100] ^= 1
    sent.hidden = bytes(changed)
    with pytest.raises(ServiceError, match="changed on their way"):
        read_step(sent, WIDTH)
    sent = write_step(STEP, rows[:2])
    with pytest.raises(ServiceError, match="256 bytes of activations, expected 512: 4 tokens of 32 values"):
        read_step(sent, WIDTH)


def test_the_largest_step_fits_a_message() -> None:
    limits = StepLimits(step_tokens=64, sequences=8, context_tokens=512, kv_blocks=64, block_positions=64)
    some = np.arange(512, dtype=np.int32)
    biases = Biases(np.arange(BIAS_ROOM, dtype=np.int32), np.zeros(BIAS_ROOM, np.float32))
    everything = np.zeros(MASK_BYTES // 4, np.uint32)
    more = {"biases": biases, "allowed": lambda: everything, "top": 20}
    chunks = [Chunk(504, some[:8], some[:8], EVERYTHING, some, some, **more) for _ in range(8)]  # type: ignore[arg-type]
    sent = write_step(Step(1, tuple(chunks)), np.ones((64, WIDTH), np.float32))
    assert sent.ByteSize() <= largest_message(limits, WIDTH)
