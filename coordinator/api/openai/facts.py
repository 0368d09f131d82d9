"""What answers tell beside their text: usage, times and log-probabilities, in the words of OpenAI and llama-server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import msgspec

from numoe.coordinator.api.telling import sse
from numoe.coordinator.requests.events import Delta, Finished, PromptTokens, Usage
from numoe.coordinator.requests.request import GenerationRequest
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.messages import Alternatives

encode = msgspec.json.Encoder().encode
DONE = sse(b"[DONE]")  # after the last chunk of a stream
BUILD = f"numoe-{version('numoe')}"


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one call begins with."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def of(self, kind: str) -> dict[str, Any]:
        """The first fields of an object of this kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": BUILD,  # the same one, with the same seed, means the same bits
        }


def usage_of(answers: Sequence[Finished], choices: int) -> dict[str, Any]:
    """The usage of all answers together, `choices` to each prompt, which counts once."""
    usages: list[Usage] = [answer.usage for answer in answers]
    prompt = sum(usage.prompt_tokens for usage in usages[::choices])
    completion = sum(usage.completion_tokens for usage in usages)
    drafted, accepted = sum(one.drafted_tokens for one in usages), sum(one.accepted_tokens for one in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages[::choices])},
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def timings_of(answer: Finished) -> dict[str, float]:
    """How long it took, as llama-server says it; waiting in the queue is in none of them."""
    usage, timings = answer.usage, answer.timings
    run = usage.prompt_tokens - usage.cached_tokens
    drafted = {"draft_n": usage.drafted_tokens, "draft_n_accepted": usage.accepted_tokens}
    prompt_ms, predicted_ms = timings.prefill_milliseconds, timings.decode_milliseconds
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": run,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(run, 1),
        "prompt_per_second": timings.prefill_tokens_per_second,
        "predicted_n": usage.completion_tokens,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / max(usage.completion_tokens - 1, 1),
        "predicted_per_second": timings.decode_tokens_per_second,
        **(drafted if usage.drafted_tokens else {}),
    }


def last_of_stream(head: dict[str, Any], answers: Iterable[Finished | None], choices: int, *, usage: bool) -> bytes:
    """What ends a stream: a chunk that tells the `usage`, where that is wanted, and DONE."""
    if not usage:
        return DONE
    return sse(encode(head | {"choices": [], "usage": usage_of(list(filter(None, answers)), choices)})) + DONE


def whole_answer(
    head: dict[str, Any], told: Sequence[dict[str, Any]], answers: Iterable[Finished | None], choices: int
) -> bytes:
    """One object of all that is told, with the usage, and the times of an answer that is the only one."""
    finished = list(filter(None, answers))
    timings = {"timings": timings_of(finished[0])} if len(finished) == 1 else {}
    return encode(head | {"choices": told, "usage": usage_of(finished, choices)} | timings)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, and how likely it was."""

    id: int
    text: str
    bytes: bytes
    logprob: float | None  # None: of a prompt's first token, which follows nothing
    likeliest: tuple[TokenLogprob, ...] = ()  # in its place, best first, as many as are wanted


def logprobs_of(delta: Delta, request: GenerationRequest, tokenizer: Tokenizer) -> list[TokenLogprob]:
    """The drawn tokens of a delta, without the one that ends the answer."""
    ends = request.stop_token_ids | (frozenset() if request.ignore_eos else frozenset(tokenizer.end_ids))
    return [
        spelled_token(token_id, logprob, tokenizer, alternatives)
        for token_id, logprob, alternatives in zip(delta.token_ids, delta.logprobs, delta.alternatives, strict=True)
        if token_id not in ends
    ]


def prompt_logprobs_of(told: PromptTokens, tokenizer: Tokenizer) -> list[TokenLogprob]:
    """Tokens of a prompt."""
    return [spelled_token(draw.token_id, draw.logprob, tokenizer, draw.alternatives) for draw in told.draws]


def spelled_token(
    token_id: int, logprob: float | None, tokenizer: Tokenizer, alternatives: Alternatives = ()
) -> TokenLogprob:
    """A token as clients are told of it."""
    spelled = tokenizer.token_bytes(token_id, control=True)
    likeliest = tuple(spelled_token(other, likely, tokenizer) for other, likely in alternatives)
    return TokenLogprob(token_id, spelled.decode(errors="replace"), spelled, logprob, likeliest)
