"""Chat completions as they are told: a stream of chunks, or one object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from numoe.coordinator.api.answering import Answer
from numoe.coordinator.api.failures import Failure
from numoe.coordinator.api.openai.errors import refusal
from numoe.coordinator.api.openai.facts import (
    Head,
    TokenLogprob,
    encode,
    last_of_stream,
    logprobs_of,
    timings_of,
    whole_answer,
)
from numoe.coordinator.api.telling import Told, sse
from numoe.coordinator.requests.events import Delta, Finished, FinishReason
from numoe.model.chat.parts import AnswerPart, CallArguments, CallBegins, Content, Reasoning
from numoe.model.text.tokenizer import Tokenizer


class ChatChoice:
    """One answer, as far as it is read."""

    def __init__(self, answer: Answer, logprobs_by: Tokenizer | None) -> None:
        """`logprobs_by` spells the tokens whose log-probabilities are wanted; None: they are not."""
        self._answer, self._tokenizer = answer, logprobs_by
        self._logprobs: list[TokenLogprob] = []
        self.finished: Finished | None = None

    def read(self, event: Told) -> Sequence[AnswerPart]:
        """What an event adds to the answer."""
        if isinstance(event, Finished):
            self.finished = event
        elif isinstance(event, Delta) and self._tokenizer is not None:
            self._logprobs += logprobs_of(event, self._answer.request, self._tokenizer)
        return self._answer.read(event)

    def take_logprobs(self) -> dict[str, Any] | None:
        """Those of tokens read since the last call; None: there are none, or nobody wants them."""
        tokens, self._logprobs = self._logprobs, []
        if not tokens:
            return None
        told = [_token(one) | {"top_logprobs": [_token(other) for other in one.likeliest]} for one in tokens]
        return {"content": told, "refusal": None}

    @property
    def finish_reason(self) -> str:
        """Why it ended."""
        assert self.finished is not None
        called = self._answer.called and self.finished.reason is FinishReason.STOP
        return "tool_calls" if called else self.finished.reason.value


class ChatStream:
    """Tells answers as chunks: each piece once, in order, and at the end of each why it ended."""

    def __init__(self, head: Head, choices: Sequence[ChatChoice], *, usage: bool) -> None:
        """`usage`: whether a last chunk tells it."""
        self._head = head.of("chat.completion.chunk") | ({"usage": None} if usage else {})
        self._choices, self._usage = choices, usage

    def begin(self) -> bytes:
        first = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(number, first) for number in range(len(self._choices)))

    def add(self, number: int, event: Told) -> bytes:
        told = [self._chunk(number, _delta(part)) for part in self._choices[number].read(event)]
        if isinstance(event, Finished):
            reason = self._choices[number].finish_reason
            told.append(self._chunk(number, {}, reason, {"timings": timings_of(event)}))
        return b"".join(told)

    def end(self) -> bytes:
        answers = (choice.finished for choice in self._choices)
        return last_of_stream(self._head, answers, len(self._choices), usage=self._usage)

    def fail(self, failure: Failure, status: int) -> bytes:
        return sse(encode(refusal(failure, status)))

    def _chunk(
        self, number: int, delta: dict[str, Any], reason: str | None = None, more: dict[str, Any] | None = None
    ) -> bytes:
        """A chunk of a choice; it tells the log-probabilities that were not told yet."""
        logprobs = self._choices[number].take_logprobs()
        told = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return sse(encode(self._head | {"choices": [told]} | (more or {})))


class WholeChat:
    """Tells answers once all of them are finished."""

    def __init__(self, head: Head, choices: Sequence[ChatChoice]) -> None:
        self._head, self._choices = head.of("chat.completion"), choices
        self._parts: list[list[AnswerPart]] = [[] for _ in choices]

    def begin(self) -> bytes:
        return b""

    def add(self, number: int, event: Told) -> bytes:
        self._parts[number] += self._choices[number].read(event)
        return b""

    def end(self) -> bytes:
        told = [
            {
                "index": number,
                "message": _message(parts),
                "logprobs": choice.take_logprobs(),
                "finish_reason": choice.finish_reason,
            }
            for number, (choice, parts) in enumerate(zip(self._choices, self._parts, strict=True))
        ]
        return whole_answer(self._head, told, (choice.finished for choice in self._choices), len(self._choices))

    def fail(self, failure: Failure, status: int) -> bytes:
        return encode(refusal(failure, status))


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.bytes), "logprob": token.logprob}


def _delta(part: AnswerPart) -> dict[str, Any]:
    match part:
        case Content():
            return {"content": part.text}
        case Reasoning():
            return {"reasoning_content": part.text}
        case CallBegins():
            function = {"name": part.name, "arguments": ""}
            return {"tool_calls": [{"index": part.index, "id": part.id, "type": "function", "function": function}]}
        case CallArguments():
            return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}


def _message(parts: Iterable[AnswerPart]) -> dict[str, Any]:
    """All parts of an answer as one message."""
    content, reasoning, calls = list[str](), list[str](), dict[int, dict[str, Any]]()
    arguments: dict[int, list[str]] = {}
    for part in parts:
        match part:
            case Content():
                content.append(part.text)
            case Reasoning():
                reasoning.append(part.text)
            case CallBegins():
                calls[part.index] = {"id": part.id, "type": "function", "function": {"name": part.name}}
                arguments[part.index] = []
            case CallArguments():
                arguments[part.index].append(part.text)
    for index, call in calls.items():
        call["function"]["arguments"] = "".join(arguments[index])
    message: dict[str, Any] = {"role": "assistant", "content": "".join(content) or (None if calls else "")}
    if reasoning:
        message["reasoning_content"] = "".join(reasoning)
    if calls:
        message["tool_calls"] = list(calls.values())
    return message
