"""The events that answer a request: what the engine tells, in order, from acceptance to the one terminal event."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from numoe.protos.errors import NumoeError
from numoe.protos.messages import Alternatives, Draw


class FinishReason(StrEnum):
    """Why a request ended well."""

    STOP = "stop"  # an end token, a stop token or a stop string
    LENGTH = "length"  # max_tokens, or the end of the context


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a finished request; completion_tokens counts every token drawn, the one that ended it included."""

    prompt_tokens: int
    completion_tokens: int
    mean_experts: float | None = None  # run per token and layer; None: the model has none
    saved_bytes: int = 0  # of experts left out, counted for each token as if it were alone
    cached_tokens: int = 0  # of the prompt, that had not to be run: others had run them before
    drafted_tokens: int = 0  # that were run before they were known, as the text seemed to repeat itself
    accepted_tokens: int = 0  # of those, part of the answer


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a finished request's time went, waits for lost workers too; the three add up to submit .. last token."""

    queue_milliseconds: float  # submitted .. first chunk of the prompt sent to the workers
    prefill_milliseconds: float  # .. first token drawn
    decode_milliseconds: float  # .. last token drawn
    prefill_tokens_per_second: float  # prompt tokens per second of prefill, those that had to be run
    decode_tokens_per_second: float  # tokens after the first per second of decode; 0 with one token


@dataclass(frozen=True, slots=True)
class Accepted:
    """Always the first event."""

    queue_position: int  # requests waiting ahead of this one
    estimated_wait_seconds: float


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """So many of the prompt's tokens have been run."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of the prompt that were run since the last of these, from the second on, and how likely they were."""

    draws: tuple[Draw, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens drawn since the last Delta, and the text that is certain by now.

    The text may lag behind the tokens: an incomplete UTF-8 character and what could become a stop string are held
    back. A slow consumer gets fewer, longer Deltas.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # one per token: natural log of its probability before biases, penalties and filters
    # One per token: the likeliest in its place, ids and logprobs, best first; as many as the request asks for.
    alternatives: tuple[Alternatives, ...] = ()


@dataclass(frozen=True, slots=True)
class Resumed:
    """Workers were lost, and the request goes on where it was: nothing is lost, repeated or changed."""

    reason: str  # what was lost, for people
    seconds: float  # from the loss until the request was as far as before
    tokens: int  # of prompt and answer, run again


@dataclass(frozen=True, slots=True)
class Finished:
    """Terminal: the request ended as asked."""

    reason: FinishReason
    # The stop string, or the stop or end token's id; None: LENGTH, Generation.stop, or a grammar allows no more.
    stop_match: str | int | None
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Failed:
    """Terminal: RequestCancelled, RequestAborted, DeadlineExceeded, LogitsNotFinite, WorkerLost, Unavailable.

    And InvalidRequest, of a grammar that cannot go on.
    """

    error: NumoeError


Event = Accepted | PromptProgress | PromptTokens | Resumed | Delta | Finished | Failed
