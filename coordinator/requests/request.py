"""What a client asks of the engine, the events that answer it, and the check of one against the model's limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from numoe.coordinator.requests.constraint import Constraint
from numoe.coordinator.requests.repeats import BREAKER_BYTES, MOST_BREAKERS, WINDOW, Dry
from numoe.coordinator.requests.thought import ThoughtTokens
from numoe.protos.errors import InvalidRequest, PromptTooLong
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import MOST_ALTERNATIVES, Sampling
from numoe.protos.trace_context import TraceContext

STOP_STRINGS = 16
STOP_STRING_BYTES = 256
STOP_TOKENS = 64
MOST_SIGMAS = 100.0
BIASES = 1024
BIAS_RANGE = (-100.0, 100.0)
TEMPERATURE_RANGE = (0.01, 100.0)  # below 0.01 a float32 logit divided by it may overflow; 0 asks for the largest logit


class Priority(StrEnum):
    """Who goes first, in this order."""

    INTERACTIVE = "interactive"  # somebody waits for the answer
    BATCH = "batch"  # has what others leave: it is admitted after them, and makes room for them


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue.

    Stop strings end a request only from its `min_tokens`-th token on, and stop tokens and the model's end tokens are
    not drawn before; with `ignore_eos` end tokens never are. With `include_stop` the text ends with the stop string (or
    stop token's text) that ended it, otherwise just before it.
    """

    request_id: str
    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None  # tokens to draw at most; None: as many as the context holds
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False  # never draw the model's own end tokens
    include_stop: bool = False
    deadline: float | None = None  # time.monotonic(); None: none
    client: str = ""  # who asks, for operators; "": unknown
    method: str = ""  # that was called, in the door's words, for operators
    trace: TraceContext | None = None  # of whoever asks
    priority: Priority = Priority.INTERACTIVE
    key: str = ""  # the name of the key with which it was asked, whose share of the queue it takes; "": its host's
    experts: ExpertReduction | None = None  # None: as the service's settings say
    thought: ThoughtTokens | None = None  # None: nothing depends on where in a thought it is
    shown_tokens: frozenset[int] = frozenset()  # control tokens whose names are part of the answer's text
    logit_bias: tuple[tuple[int, float], ...] = ()  # token ids, each once, and what is added to their logits
    constraint: Constraint | None = None  # what its text may be; None: anything
    dry: Dry | None = None  # how repetitions are penalised; None: not at all
    top_logprobs: int = 0  # likeliest tokens to tell beside each that is drawn, of the unmodified distribution
    prompt_logprobs: bool = False  # tell of the prompt's tokens, too, how likely they were
    slot: int | None = None  # whose number it is at work under; None: any


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What this model and these workers can serve."""

    vocabulary: int  # token ids are 0 .. vocabulary - 1
    context_tokens: int  # prompt and drawn tokens of one request; at most what the pool of KV blocks can hold
    has_experts: bool = True  # whether a router chooses
    slots: int = 1  # requests at work at once
    queued: int = 0  # that may wait beside them


def token_budget(request: GenerationRequest, limits: RequestLimits) -> int:
    """How many tokens a valid request may draw."""
    return limits.context_tokens - len(request.prompt) if request.max_tokens is None else request.max_tokens


def check_request(request: GenerationRequest, limits: RequestLimits) -> None:
    """Raises InvalidRequest naming the first field at fault."""
    check_prompt_length(len(request.prompt), limits)
    for field_name, message in _faults(request, limits):
        raise InvalidRequest(field_name, message)


def check_sampling(sampling: Sampling) -> None:
    """Raises InvalidRequest naming the first field at fault."""
    for field_name, message in _sampling_faults(sampling):
        raise InvalidRequest(field_name, message)


def check_prompt_length(tokens: int, limits: RequestLimits) -> None:
    """Raises InvalidRequest for a prompt of so many tokens, before anything is made of it."""
    context = limits.context_tokens
    if tokens == 0:
        raise InvalidRequest("prompt", "is empty; at least 1 token is needed")
    if tokens >= context:
        problem = f"has {tokens} tokens; the context of {context} leaves room for at most {context - 1}"
        raise PromptTooLong("prompt", problem, tokens, context)


def check_stop_counts(strings: int, tokens: int) -> None:
    """Raises InvalidRequest for so many stop strings and stop tokens, before anything is made of them."""
    for field_name, message in _stop_count_faults(strings, tokens):
        raise InvalidRequest(field_name, message)


def _faults(request: GenerationRequest, limits: RequestLimits) -> Iterator[tuple[str, str]]:
    yield from _length_faults(request, limits)
    yield from _stop_count_faults(len(request.stop), len(request.stop_token_ids))
    yield from _token_faults(request, limits)
    yield from _stop_faults(request)
    yield from _sampling_faults(request.sampling)
    yield from _bias_faults(request.logit_bias, limits)
    if request.dry is not None:
        yield from _dry_faults(request.dry)
    if not 0 <= request.top_logprobs <= min(MOST_ALTERNATIVES, limits.vocabulary):
        yield "top_logprobs", f"is {request.top_logprobs}; expected 0 to {min(MOST_ALTERNATIVES, limits.vocabulary)}"
    if request.slot is not None and not 0 <= request.slot < limits.slots:
        yield "slot", f"is {request.slot}; this service has slots 0 to {limits.slots - 1}"
    if request.experts is not None:
        yield from _expert_faults(request.experts, limits)


def _length_faults(request: GenerationRequest, limits: RequestLimits) -> Iterator[tuple[str, str]]:
    prompt, context = len(request.prompt), limits.context_tokens
    if request.max_tokens is not None:
        if request.max_tokens < 1:
            yield "max_tokens", f"is {request.max_tokens}; expected at least 1"
        if prompt + request.max_tokens > context:
            yield (
                "max_tokens",
                f"is {request.max_tokens}; with a prompt of {prompt} tokens the context of {context} leaves room for "
                f"{context - prompt}: ask for fewer, or leave it out",
            )
    budget = token_budget(request, limits)
    if not 0 <= request.min_tokens <= budget:
        yield "min_tokens", f"is {request.min_tokens}; expected 0 to {budget}, the most that may be drawn"


def _token_faults(request: GenerationRequest, limits: RequestLimits) -> Iterator[tuple[str, str]]:
    last = limits.vocabulary - 1
    if min(request.prompt) < 0 or max(request.prompt) > last:
        index, token_id = next((i, t) for i, t in enumerate(request.prompt) if not 0 <= t <= last)
        yield f"prompt[{index}]", f"is token id {token_id}; this model's ids are 0 to {last}"
    for token_id in sorted(request.stop_token_ids):
        if not 0 <= token_id <= last:
            yield "stop_token_ids", f"has token id {token_id}; this model's ids are 0 to {last}"


def _stop_count_faults(strings: int, tokens: int) -> Iterator[tuple[str, str]]:
    if strings > STOP_STRINGS:
        yield "stop", f"has {strings} strings; at most {STOP_STRINGS} are allowed"
    if tokens > STOP_TOKENS:
        yield "stop_token_ids", f"has {tokens} ids; at most {STOP_TOKENS} are allowed"


def _stop_faults(request: GenerationRequest) -> Iterator[tuple[str, str]]:
    for index, text in enumerate(request.stop):
        size = len(text.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= STOP_STRING_BYTES:
            yield f"stop[{index}]", f"has {size} bytes of UTF-8; expected 1 to {STOP_STRING_BYTES}"


def _sampling_faults(sampling: Sampling) -> Iterator[tuple[str, str]]:
    lowest, highest = TEMPERATURE_RANGE
    # Written as "not (within)", so that NaN is a fault everywhere.
    if not (sampling.temperature == 0.0 or lowest <= sampling.temperature <= highest):
        yield (
            "sampling.temperature",
            f"is {sampling.temperature}; expected 0 (always the likeliest token) or {lowest} to {highest:g}",
        )
    if not 0 <= sampling.top_k < 2**31:
        yield "sampling.top_k", f"is {sampling.top_k}; expected 0 (off) or a positive 32-bit number"
    if not 0.0 < sampling.top_p <= 1.0:
        yield "sampling.top_p", f"is {sampling.top_p}; expected more than 0 and at most 1 (off)"
    if not 0.0 <= sampling.min_p <= 1.0:
        yield "sampling.min_p", f"is {sampling.min_p}; expected 0 (off) to 1"
    if not 0.01 <= sampling.repetition_penalty <= 100.0:
        yield "sampling.repetition_penalty", f"is {sampling.repetition_penalty}; expected 0.01 to 100 (1: off)"
    for name in ("frequency_penalty", "presence_penalty"):
        value = getattr(sampling, name)
        if not -2.0 <= value <= 2.0:
            yield f"sampling.{name}", f"is {value}; expected -2 to 2 (0: off)"
    if not 0.0 < sampling.typical_p <= 1.0:
        yield "sampling.typical_p", f"is {sampling.typical_p}; expected more than 0 and at most 1 (off)"
    if not 0.0 <= sampling.top_n_sigma <= MOST_SIGMAS:
        yield "sampling.top_n_sigma", f"is {sampling.top_n_sigma}; expected 0 (off) to {MOST_SIGMAS:g}"
    for name in ("xtc_probability", "xtc_threshold"):
        value = getattr(sampling, name)
        if not 0.0 <= value <= 1.0:
            yield f"sampling.{name}", f"is {value}; expected 0 to 1"
    if not 0 <= sampling.seed < 2**64:
        yield "sampling.seed", f"is {sampling.seed}; expected an unsigned 64-bit number"


def _bias_faults(biases: tuple[tuple[int, float], ...], limits: RequestLimits) -> Iterator[tuple[str, str]]:
    lowest, highest = BIAS_RANGE
    if len(biases) > BIASES:
        yield "logit_bias", f"has {len(biases)} entries; at most {BIASES} are allowed"
    for token_id, bias in biases[:BIASES]:
        if not 0 <= token_id < limits.vocabulary:
            yield "logit_bias", f"has token id {token_id}; this model's ids are 0 to {limits.vocabulary - 1}"
        if not (lowest <= bias <= highest or bias == -math.inf):
            yield "logit_bias", f"is {bias} for token {token_id}; expected {lowest:g} to {highest:g}, or -infinity"


def _dry_faults(dry: Dry) -> Iterator[tuple[str, str]]:
    for name, lowest, highest in (
        ("multiplier", 0.0, 100.0),
        ("base", 1.0, 100.0),
        ("allowed_length", 1, WINDOW),
        ("window", 1, WINDOW),
    ):
        value = getattr(dry, name)
        if not lowest <= value <= highest:
            yield f"sampling.dry.{name}", f"is {value}; expected {lowest:g} to {highest:g}"
    if len(dry.breakers) > MOST_BREAKERS:
        yield "sampling.dry.breakers", f"are {len(dry.breakers)}; at most {MOST_BREAKERS} are allowed"
    for breaker in dry.breakers[:MOST_BREAKERS]:
        if not 1 <= len(breaker.encode("utf-8", "surrogatepass")) <= BREAKER_BYTES:
            yield "sampling.dry.breakers", f"have one of other than 1 to {BREAKER_BYTES} bytes of UTF-8"


def _expert_faults(experts: ExpertReduction, limits: RequestLimits) -> Iterator[tuple[str, str]]:
    if not 0.0 <= experts.threshold <= 1.0:
        yield "experts.threshold", f"is {experts.threshold}; expected 0 (off) to 1"
    if not 1 <= experts.fewest < 2**31:
        yield "experts.fewest", f"is {experts.fewest}; expected a positive 32-bit number"
    if experts.threshold and not limits.has_experts:
        yield "experts", "asks for fewer experts; this model has none"
