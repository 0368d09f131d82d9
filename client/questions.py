"""What is asked, as plain data: each class has the fields of the message of its name in numoe.v1, which tells of them.

What is None is left to the service. Settings has those of three messages, and of both requests what they share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from google.protobuf.message import Message as Protobuf

from numoe.protos.plain_data import fill_message
from numoe.v1.generation_pb2 import ChatRequest, GenerateRequest, TokenIds

_GROUPS = ("sampling", "stopping", "response")  # messages in a request, whose fields are Settings'


@dataclass(frozen=True, slots=True)
class Breakers:
    """Texts that end what counts as repeated."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Dry:
    """How repetitions are penalised."""

    multiplier: float
    base: float | None = None
    allowed_length: int | None = None
    window: int | None = None
    breakers: Breakers | None = None


@dataclass(frozen=True, slots=True)
class ExpertReduction:
    """How many experts are run."""

    fewest: int | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Some texts."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Guided:
    """What the text must be: one of these."""

    json_schema: str | None = None
    regex: str | None = None
    lark_grammar: str | None = None
    choice: Choice | None = None
    json_object: Literal[True] | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How an answer is made, and what is told of it."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    temperature_last: bool | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    dry: Dry | None = None
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    include_stop: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    prompt_logprobs: bool | None = None
    guided: Guided | None = None
    experts: ExpertReduction | None = None
    priority: Literal["interactive", "batch"] | None = None
    model: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function."""

    id: str
    name: str
    arguments: str  # JSON text, as the model wrote it


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: str = ""  # a JSON schema, as text


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model is to call functions: one of these."""

    mode: Literal["auto", "none", "required"] | None = None
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """How the model thinks before it answers."""

    enabled: bool | None = None
    budget_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is to be answered, and what the model may do for it: the rest of ChatRequest's fields."""

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    template_variables: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    thinking: Thinking | None = None


def generate_request(prompt: str | Sequence[int], settings: Settings, *, parse_special: bool) -> GenerateRequest:
    """The message that has a text, or token ids, continued."""
    if isinstance(prompt, str):
        request = GenerateRequest(text=prompt, parse_special=parse_special)
    else:
        request = GenerateRequest(token_ids=TokenIds(ids=prompt))
    _fill(request, settings)
    return request


def chat_request(asked: str | Conversation, settings: Settings) -> ChatRequest:
    """The message that has a conversation answered; a text is all that its user says."""
    request = ChatRequest()
    _fill(request, Conversation((ChatMessage("user", asked),)) if isinstance(asked, str) else asked)
    _fill(request, settings)
    return request


def _fill(request: Protobuf, data: Settings | Conversation) -> None:
    if isinstance(data, Settings):
        for group in _GROUPS:
            fill_message(getattr(request, group), data)
    others = [one.name for one in request.DESCRIPTOR.fields if not hasattr(data, one.name)]
    fill_message(request, data, leave_out=tuple(others))
