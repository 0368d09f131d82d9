"""Messages as they are told: a stream of events, or one object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from numoe.coordinator.api.answering import Answer
from numoe.coordinator.api.anthropic.errors import refusal
from numoe.coordinator.api.failures import Failure
from numoe.coordinator.api.telling import Told, sse
from numoe.coordinator.requests.events import Finished, FinishReason, Usage
from numoe.model.chat.parts import AnswerPart, CallArguments, CallBegins, Content, Reasoning

_encode = msgspec.json.Encoder().encode
_KINDS = {Content: "text", Reasoning: "thinking"}


@dataclass(frozen=True, slots=True)
class Head:
    """What names a message."""

    id: str
    model: str

    def of(self, answer: Answer) -> dict[str, Any]:
        """A message of which nothing is said yet."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage(len(answer.request.prompt), 0)),
        }


class MessageStream:
    """Tells an answer as events: its blocks one after the other, each begun, added to and ended."""

    def __init__(self, head: Head, answer: Answer) -> None:
        self._head, self._answer = head, answer
        self._block = -1  # the number of the last one
        self._kind = ""  # of the block that is open; "": none is
        self._end: dict[str, Any] = {}

    def begin(self) -> bytes:
        return _event({"type": "message_start", "message": self._head.of(self._answer)})

    def add(self, number: int, event: Told) -> bytes:
        told = [_event(one) for part in self._answer.read(event) for one in self._said(part)]
        if isinstance(event, Finished):
            told += [_event(one) for one in self._closed()]
            delta, usage = _stop(self._answer, event), _usage(event.usage)
            self._end = {"type": "message_delta", "delta": delta, "usage": usage}
        return b"".join(told)

    def end(self) -> bytes:
        return _event(self._end) + _event({"type": "message_stop"})

    def fail(self, failure: Failure, status: int) -> bytes:
        return _event(refusal(failure, status))

    def _said(self, part: AnswerPart) -> Iterator[dict[str, Any]]:
        match part:
            case Content():
                yield from self._opened("text", {"text": ""})
                yield self._delta({"type": "text_delta", "text": part.text})
            case Reasoning():
                yield from self._opened("thinking", {"thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": part.text})
            case CallBegins():
                yield from self._closed()
                yield from self._opened("tool_use", {"id": part.id, "name": part.name, "input": {}})
            case CallArguments():
                yield self._delta({"type": "input_json_delta", "partial_json": part.text})

    def _opened(self, kind: str, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """See that a block of this kind is open."""
        if self._kind != kind:
            yield from self._closed()
            self._block, self._kind = self._block + 1, kind
            block = {"type": kind} | content
            yield {"type": "content_block_start", "index": self._block, "content_block": block}

    def _closed(self) -> Iterator[dict[str, Any]]:
        if self._kind:
            self._kind = ""
            yield {"type": "content_block_stop", "index": self._block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._block, "delta": delta}


class WholeMessage:
    """Tells an answer once it is finished."""

    def __init__(self, head: Head, answer: Answer) -> None:
        self._head, self._answer = head, answer
        self._parts: list[AnswerPart] = []
        self._finished: Finished | None = None

    def begin(self) -> bytes:
        return b""

    def add(self, number: int, event: Told) -> bytes:
        self._parts += self._answer.read(event)
        if isinstance(event, Finished):
            self._finished = event
        return b""

    def end(self) -> bytes:
        assert self._finished is not None
        told = {"content": _blocks(self._parts), "usage": _usage(self._finished.usage)}
        return _encode(self._head.of(self._answer) | told | _stop(self._answer, self._finished))

    def fail(self, failure: Failure, status: int) -> bytes:
        return _encode(refusal(failure, status))


def _event(content: dict[str, Any]) -> bytes:
    return sse(_encode(content), content["type"])


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,  # there, those that were not read from the cache
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _stop(answer: Answer, finished: Finished) -> dict[str, str | None]:
    """Why the answer ended."""
    match = finished.stop_match if isinstance(finished.stop_match, str) else None
    if finished.reason is FinishReason.LENGTH:
        reason = "max_tokens"
    elif answer.called:
        reason = "tool_use"
    else:
        reason = "end_turn" if match is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": match}


def _blocks(parts: list[AnswerPart]) -> list[dict[str, Any]]:
    """All parts of an answer as blocks; neighbours of one kind are one."""
    blocks: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case Content() | Reasoning():
                kind = _KINDS[type(part)]
                if not blocks or blocks[-1]["type"] != kind:
                    blocks.append({"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {}))
                blocks[-1][kind] += part.text
            case CallBegins():
                blocks.append({"type": "tool_use", "id": part.id, "name": part.name, "input": ""})
            case CallArguments():
                blocks[-1]["input"] += part.text
    return [_with_input(block) if block["type"] == "tool_use" else block for block in blocks]


def _with_input(block: dict[str, Any]) -> dict[str, Any]:
    """A call with its arguments as data; those that the model broke off are kept as they are, under one name."""
    try:
        found = msgspec.json.decode(block["input"] or "{}")
    except (msgspec.DecodeError, RecursionError):
        found = None
    return block | {"input": found if isinstance(found, dict) else {"unfinished": block["input"]}}
