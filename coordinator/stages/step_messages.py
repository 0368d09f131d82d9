"""Steps and their answers as stage.proto has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from numoe.protos.errors import ServiceError
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import BIAS_ROOM, NO_BLOCK, Biases, Chunk, Sampling, Step, StepLimits, StepResult
from numoe.v1 import stage_pb2 as pb

Floats = NDArray[np.float32]

MESSAGE_BYTES = 1 << 20  # more than the rest of a message takes beside arrays
MASK_BYTES = 1 << 16  # a bit for each token of a vocabulary of 524,288; the largest in use has half as many
_SAMPLING = tuple(field.name for field in pb.StageSampling.DESCRIPTOR.fields)


def largest_message(limits: StepLimits, width: int) -> int:
    """Bytes that a step takes at most: its rows, and what its chunks have to say."""
    tables = limits.sequences * -(-limits.context_tokens // limits.block_positions)
    draws = limits.sequences * (8 * (limits.context_tokens + BIAS_ROOM) + MASK_BYTES)
    return 4 * (limits.step_tokens * (width + 1) + tables) + draws + MESSAGE_BYTES


def write_step(step: Step, hidden: Floats) -> pb.StageStep:
    """`hidden`: [T, D] what the layers so far made of the step's tokens."""
    rows = np.ascontiguousarray(hidden, "<f4").tobytes()
    chunks = [_write_chunk(chunk) for chunk in step.chunks]
    return pb.StageStep(number=step.number, chunks=chunks, checked=step.checked, hidden=rows, digest=_digest(rows))


def read_step(message: pb.StageStep, width: int) -> tuple[Step, Floats]:
    """The step and [T, D] rows of its tokens. Raises ServiceError: they are not what was sent, or not so many."""
    chunks = tuple(_read_chunk(chunk) for chunk in message.chunks)
    tokens = sum(len(chunk.token_ids) for chunk in chunks)
    if len(message.hidden) != 4 * tokens * width:
        found = f"{len(message.hidden)} bytes of activations, expected {4 * tokens * width}"
        raise ServiceError(f"step {message.number} came with {found}: {tokens} tokens of {width} values")
    if _digest(message.hidden) != message.digest:
        raise ServiceError(f"step {message.number} came with activations that were changed on their way")
    return Step(message.number, chunks, message.checked), _array(message.hidden, "<f4").reshape(tokens, width)


def write_answer(result: StepResult) -> pb.StageAnswer:
    """What a step drew and ran; its time is its sender's own."""
    return pb.StageAnswer(
        number=result.number,
        token_ids=result.token_ids.astype("<i4").tobytes(),
        logprobs=result.logprobs.astype("<f4").tobytes(),
        experts_run=result.experts_run.astype("<i8").tobytes(),
        not_finite=result.not_finite,
        top_tokens=result.top_tokens.astype("<i4").tobytes(),
        top_logprobs=result.top_logprobs.astype("<f4").tobytes(),
    )


def read_answer(message: pb.StageAnswer) -> StepResult:
    """As `write_answer` was given it, in no time."""
    rows = len(message.token_ids) // 4
    top = len(message.top_tokens) // 4 // rows if rows else 0
    return StepResult(
        number=message.number,
        token_ids=_array(message.token_ids, "<i4"),
        logprobs=_array(message.logprobs, "<f4"),
        experts_run=_array(message.experts_run, "<i8"),
        seconds=0.0,
        not_finite=message.not_finite,
        top_tokens=_array(message.top_tokens, "<i4").reshape(rows, top),
        top_logprobs=_array(message.top_logprobs, "<f4").reshape(rows, top),
    )


def _write_chunk(chunk: Chunk) -> pb.StageChunk:
    sampling = chunk.sampling
    return pb.StageChunk(
        first_position=chunk.first_position,
        token_ids=_bytes(chunk.token_ids),
        kv_blocks=_bytes(chunk.kv_blocks),
        sampling=None if sampling is None else pb.StageSampling(**_fields_of(sampling)),
        seen_tokens=_bytes(chunk.seen_tokens),
        seen_counts=_bytes(chunk.seen_counts),
        fewest_experts=chunk.experts.fewest,
        expert_threshold=chunk.experts.threshold,
        draws=chunk.draws,
        bias_tokens=_bytes(chunk.biases.tokens),
        bias_values=chunk.biases.values.astype("<f4").tobytes(),
        repeats=chunk.biases.repeats,
        allowed=None if chunk.allowed is None else chunk.allowed().astype("<u4").tobytes(),
        top=chunk.top,
        given=_bytes(chunk.given),
        source_block=None if chunk.source_block == NO_BLOCK else chunk.source_block,
    )


def _read_chunk(message: pb.StageChunk) -> Chunk:
    own, repeats = message.sampling, message.repeats
    biases = Biases(_array(message.bias_tokens, "<i4"), _array(message.bias_values, "<f4"), repeats)
    allowed = _array(message.allowed, "<u4")
    return Chunk(
        first_position=message.first_position,
        token_ids=_array(message.token_ids, "<i4"),
        kv_blocks=_array(message.kv_blocks, "<i4"),
        sampling=Sampling(**{name: getattr(own, name) for name in _SAMPLING}) if message.HasField("sampling") else None,
        seen_tokens=_array(message.seen_tokens, "<i4"),
        seen_counts=_array(message.seen_counts, "<i4"),
        experts=ExpertReduction(message.fewest_experts, message.expert_threshold),
        draws=message.draws,
        biases=biases,
        allowed=(lambda: allowed) if message.HasField("allowed") else None,
        top=message.top,
        given=_array(message.given, "<i4"),
        source_block=message.source_block if message.HasField("source_block") else NO_BLOCK,
    )


def _fields_of(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in _SAMPLING} | {"seed": sampling.seed % 2**64}


def _bytes(values: NDArray[np.int32] | Sequence[int]) -> bytes:
    return np.asarray(values, "<i4").tobytes()


def _array(data: bytes, kind: str) -> NDArray[Any]:
    return np.frombuffer(data, kind)


def _digest(data: bytes) -> bytes:
    return blake3.blake3(data).digest()
