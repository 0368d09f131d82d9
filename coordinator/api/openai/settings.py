"""The fields that chat completions and completions share, and the request to the engine that they make.

What other servers take beside OpenAI's fields is taken under their names. A field that is left out, or null, keeps what
the model's makers suggest in its file (requests/suggested_sampling.py), or else OpenAI's default.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from numoe.coordinator.api.bodies import meant_sampling
from numoe.coordinator.api.openai.form import Form
from numoe.coordinator.requests.repeats import Dry
from numoe.coordinator.requests.request import GenerationRequest, check_stop_counts
from numoe.protos.errors import InvalidRequest
from numoe.protos.messages import Sampling

MOST_CHOICES = 8  # answers to one prompt
_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
)
_DRY = {
    "dry_base": "base",
    "dry_allowed_length": "allowed_length",
    "dry_penalty_last_n": "window",
    "dry_sequence_breakers": "breakers",
}


class StreamOptions(msgspec.Struct, kw_only=True):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None


class Settings(Form, kw_only=True):
    """The shared fields; inherited, as msgspec reads an object into one class."""

    model: str | None = None
    temperature: float | None = None
    top_k: int | None = None  # 0 or -1: off
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None  # llama-server's name for it
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None  # 0 or less: off
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None  # -1: as far as the service looks; 0: no DRY
    dry_sequence_breakers: list[str] | None = None
    seed: int | None = None  # -1: any, as of llama-server
    n: int | None = None
    max_tokens: int | None = None  # -1: as many as fit, as of llama-server
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    id_slot: int | None = None  # -1: any, as of llama-server
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a last chunk of a stream tells the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def seeded(self) -> bool:
        """Whether the client gave a seed."""
        return self.seed not in (None, -1)


def choices_of(settings: Settings) -> int:
    """How many answers are wanted to each prompt. Raises InvalidRequest."""
    choices = 1 if settings.n is None else settings.n
    if not 1 <= choices <= MOST_CHOICES:
        raise InvalidRequest("n", f"is {choices}; expected 1 to {MOST_CHOICES}")
    return choices


def request_of(settings: Settings, max_tokens: int | None, suggested: Sampling, request_id: str) -> GenerationRequest:
    """The request, still without its prompt, its form and who asks. Raises InvalidRequest for too many stops."""
    stop = [settings.stop] if isinstance(settings.stop, str) else settings.stop or []
    check_stop_counts(len(stop), len(settings.stop_token_ids or ()))
    return GenerationRequest(
        request_id=request_id,
        prompt=(),
        sampling=_sampling_of(settings, suggested),
        max_tokens=None if max_tokens == -1 else max_tokens,
        min_tokens=settings.min_tokens or 0,
        stop=tuple(stop),
        stop_token_ids=frozenset(settings.stop_token_ids or ()),
        ignore_eos=bool(settings.ignore_eos),
        include_stop=bool(settings.include_stop_str_in_output),
        logit_bias=tuple(sorted((settings.logit_bias or {}).items())),
        dry=_dry_of(settings),
        slot=None if settings.id_slot == -1 else settings.id_slot,
    )


def _sampling_of(settings: Settings, suggested: Sampling) -> Sampling:
    given = {name: value for name in _SAMPLING if (value := getattr(settings, name)) is not None}
    if settings.repeat_penalty is not None:
        given.setdefault("repetition_penalty", settings.repeat_penalty)
    if given.get("top_k") == -1:
        given["top_k"] = 0
    if given.get("top_n_sigma", 0.0) < 0.0:
        given["top_n_sigma"] = 0.0
    seed = (settings.seed or 0) % 2**64 if settings.seeded else 0  # OpenAI's is signed
    return replace(suggested, **meant_sampling(given), seed=seed)


def _dry_of(settings: Settings) -> Dry | None:
    if not settings.dry_multiplier or settings.dry_penalty_last_n == 0:
        return None
    given = {name: value for field, name in _DRY.items() if (value := getattr(settings, field)) is not None}
    if given.get("window") == -1:
        del given["window"]
    if "breakers" in given:
        given["breakers"] = tuple(given["breakers"])
    return Dry(settings.dry_multiplier, **given)
