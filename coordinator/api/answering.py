"""Answering, in no protocol's words: a question becomes a request to the engine, whose events answer it.

Every door calls `submit` with plain data and says the events in its own messages. Defaults stand on the fields of
GenerationRequest and Sampling, and nowhere else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from numoe.coordinator.api.prompts import Turn, encode_conversation, encode_text
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.requests.generation import Generation
from numoe.coordinator.requests.request import GenerationRequest, token_budget
from numoe.protos.errors import InvalidRequest, UnsupportedModel
from numoe.protos.messages import Sampling

REQUEST_ID_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt as text; with `parse_special`, control tokens written in it become those tokens."""

    text: str
    parse_special: bool = False


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt as token ids, used as they are."""

    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt as turns, which the model's own template renders."""

    turns: Sequence[Turn]


@dataclass(frozen=True, slots=True)
class Question:
    """What a client asks."""

    prompt: Text | TokenIds | Conversation
    request: GenerationRequest  # without the prompt's tokens; request_id "": the client gave none
    seeded: bool  # whether the client gave the seed in `request`; else one is drawn
    model: str = ""  # which model the client expects; "": whichever is served


@dataclass(frozen=True, slots=True)
class Answer:
    """An accepted request."""

    request: GenerationRequest
    max_tokens: int  # that it may draw
    generation: Generation  # its events; whoever stops reading them cancels it


async def submit(question: Question, served: ServedModel) -> Answer:
    """Encode the prompt and queue the request.

    Raises:
        InvalidRequest: a field is at fault; named as in GenerationRequest, or model, messages, request_id.
        UnsupportedModel: a conversation, and the model has no template.
        QueueFull, Unavailable: not now.
    """
    if question.model and question.model != served.spec.name:
        raise InvalidRequest("model", f"is {question.model!r}; this service serves {served.spec.name!r}")
    prompt = await asyncio.to_thread(_encode, question.prompt, served)
    request = replace(
        question.request,
        request_id=_request_id(question.request.request_id),
        prompt=tuple(prompt),
        sampling=question.request.sampling if question.seeded else _seeded(question.request),
    )
    generation = served.engine.submit(request)
    return Answer(request, token_budget(request, served.limits), generation)


def _encode(prompt: Text | TokenIds | Conversation, served: ServedModel) -> Sequence[int]:
    match prompt:
        case Text():
            return encode_text(served.tokenizer, prompt.text, special=prompt.parse_special)
        case TokenIds():
            return prompt.ids
        case Conversation():
            return _encode_conversation(prompt.turns, served)


def _encode_conversation(turns: Sequence[Turn], served: ServedModel) -> Sequence[int]:
    if served.template is None:
        raise UnsupportedModel(f"{served.spec.name!r} has no working chat template in its file; use Generate")
    if not turns:
        raise InvalidRequest("messages", "is empty; expected at least one message")
    for index, turn in enumerate(turns):
        if not turn.role:
            raise InvalidRequest(f"messages[{index}].role", "is empty; expected system, user or assistant")
    return encode_conversation(served.tokenizer, served.template, turns)


def _request_id(given: str) -> str:
    if len(given) > REQUEST_ID_CHARACTERS or not (given.isascii() and given.isprintable()):
        raise InvalidRequest("request_id", f"expected at most {REQUEST_ID_CHARACTERS} printable ASCII characters")
    return given or secrets.token_hex(8)


def _seeded(request: GenerationRequest) -> Sampling:
    return replace(request.sampling, seed=secrets.randbits(64))
