"""What answers, as plain data: each class has the fields of the message of its name in numoe.v1, which tells of them.

None is what is absent there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from numoe.client.questions import ChatMessage, ToolCall
from numoe.protos.plain_data import read_message
from numoe.v1.generation_pb2 import ChatResponse, GenerateResponse


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request will be answered. Comes again where it had to be asked again before there was a token."""

    request_id: str
    queue_position: int
    estimated_wait_seconds: float | None
    prompt_tokens: int
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How much of the prompt has been processed."""

    done_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have been generated."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One token."""

    id: int
    logprob: float | None
    top: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """How likely tokens of the prompt were."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A call that begins, with id and name, or goes on."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """What has just been generated."""

    text: str
    tokens: tuple[Token, ...]
    reasoning: str
    tool_calls: tuple[ToolCallDelta, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A part of the service was lost and replaced; the answer goes on."""

    reason: str
    seconds: float
    tokens_again: int


@dataclass(frozen=True, slots=True)
class StopMatch:
    """What ended an answer: one of these."""

    text: str | None
    token_id: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    mean_experts: float | None
    saved_bytes: int
    cached_tokens: int
    drafted_tokens: int  # run before they were known, as the text seemed to repeat itself
    accepted_tokens: int  # of those, part of the answer


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went."""

    queue_milliseconds: float
    prefill_milliseconds: float
    decode_milliseconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete; always last."""

    reason: str  # "stop", "length" or "tool_calls"
    stop: StopMatch | None
    usage: Usage
    timings: Timings


Event = Accepted | PromptProgress | PromptTokens | Delta | Resumed | Finished

_KINDS: Mapping[str, type[Event]] = MappingProxyType(
    {
        "prompt_progress": PromptProgress,
        "prompt_tokens": PromptTokens,
        "delta": Delta,
        "resumed": Resumed,
        "finished": Finished,
    }
)


def read_event(message: GenerateResponse | ChatResponse) -> Event | None:
    """The event of a message; None: of its failure, which the call's end tells, or of what only newer clients know."""
    name = message.WhichOneof("event") or ""
    if name == "accepted":
        return read_message(Accepted, message.accepted, request_id=message.request_id)
    return read_message(_KINDS[name], getattr(message, name)) if name in _KINDS else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finished: Finished

    @property
    def message(self) -> ChatMessage:
        """The same as the turn of a conversation that goes on."""
        return ChatMessage("assistant", self.text, self.reasoning, self.tool_calls)


def whole(events: Iterable[Event]) -> Answer:
    """What all events of an answer say together. Of a stream: `whole([event async for event in stream])`."""
    text, reasoning, calls = list[str](), list[str](), dict[int, ToolCall]()
    for event in events:
        match event:
            case Delta():
                text.append(event.text)
                reasoning.append(event.reasoning)
                for part in event.tool_calls:
                    begun = calls.get(part.index) or ToolCall(part.id or "", part.name or "", "")
                    calls[part.index] = ToolCall(begun.id, begun.name, begun.arguments + part.arguments)
            case Finished():
                return Answer("".join(text), "".join(reasoning), tuple(calls.values()), event)
    raise ValueError("the events end without Finished: expected all of an answer")
