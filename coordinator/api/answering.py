"""Answering, in no protocol's words: a question becomes a request to the engine, whose events answer it.

Every door calls `submit` with plain data and says the events in its own messages. Defaults stand on the fields of
GenerationRequest and Sampling, and nowhere else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from numoe.coordinator.api.encoding import TOKENIZED_BYTES, Checkpoint, Encoder, byte_length, work_apart
from numoe.coordinator.api.prompts import Turn, encode_conversation, encode_text
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.requests.generation import Generation
from numoe.coordinator.requests.request import GenerationRequest, check_prompt_length, token_budget
from numoe.model.text.chat_template import INPUT_BYTES
from numoe.protos.errors import InvalidRequest, UnsupportedModel
from numoe.protos.messages import Sampling


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
    request: GenerationRequest  # without the prompt's tokens
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
        InvalidRequest: a field is at fault; named as in GenerationRequest, or model, messages.
        UnsupportedModel: a conversation, and the model has no template.
        QueueFull, Unavailable: not now; asked before anything is encoded.
        DeadlineExceeded: encoding took too long.
    """
    if question.model and question.model != served.spec.name:
        raise InvalidRequest("model", f"is {question.model!r}; this service serves {served.spec.name!r}")
    served.engine.refuse_if_closed_or_full()  # which costs nothing; encoding does
    prompt = await _encode(question, served)
    request = replace(
        question.request,
        prompt=tuple(prompt),
        sampling=question.request.sampling if question.seeded else _seeded(question.request),
    )
    guide = None if request.constraint is None else await served.guides.compile(request.constraint)
    generation = served.engine.submit(request, guide)
    return Answer(request, token_budget(request, served.limits), generation)


async def tokenize(served: ServedModel, text: str, *, special: bool, bos: bool, deadline: float | None) -> list[int]:
    """Token ids of a text that is not to be answered; `deadline` in time.monotonic().

    Raises:
        InvalidRequest: the text is too long, whatever the context.
        DeadlineExceeded: it took too long.
    """
    if (size := byte_length(text)) > TOKENIZED_BYTES:
        raise InvalidRequest("text", f"takes {size} bytes; at most {TOKENIZED_BYTES} are tokenized in one call")

    def work(checkpoint: Checkpoint) -> list[int]:
        return encode_text(Encoder(served.tokenizer, checkpoint), text, special=special, bos=bos)

    try:
        return await work_apart(work, len(text), deadline)
    except InvalidRequest as error:
        raise InvalidRequest("text", error.problem) from error


async def _encode(question: Question, served: ServedModel) -> Sequence[int]:
    """The token ids of a question's prompt; what is too long is refused before anything is converted or encoded."""
    prompt, most_tokens = question.prompt, served.limits.context_tokens
    match prompt:
        case TokenIds():
            check_prompt_length(len(prompt.ids), served.limits)
            return prompt.ids
        case Text():
            Encoder(served.tokenizer, most_tokens=most_tokens).refuse_too_long(prompt.text)
            characters = len(prompt.text)
        case Conversation():
            _check_conversation(prompt.turns, served)
            characters = sum(len(turn.content) for turn in prompt.turns)

    def work(checkpoint: Checkpoint) -> list[int]:
        encoder = Encoder(served.tokenizer, checkpoint, most_tokens)
        if isinstance(prompt, Text):
            return encode_text(encoder, prompt.text, special=prompt.parse_special)
        assert served.template is not None
        return encode_conversation(encoder, served.template, prompt.turns)

    return await work_apart(work, characters, served.engine.deadline_of(question.request, time.monotonic()))


def _check_conversation(turns: Sequence[Turn], served: ServedModel) -> None:
    if served.template is None:
        raise UnsupportedModel(f"{served.spec.name!r} has no working chat template in its file; use Generate")
    if not turns:
        raise InvalidRequest("messages", "is empty; expected at least one message")
    for index, turn in enumerate(turns):
        if not turn.role:
            raise InvalidRequest(f"messages[{index}].role", "is empty; expected system, user or assistant")
    size = sum(byte_length(turn.content) + byte_length(turn.role) for turn in turns)
    if size > INPUT_BYTES:  # not by the context: a template may leave out much of what was said before
        raise InvalidRequest("messages", f"they take {size} bytes; at most {INPUT_BYTES} are allowed")


def _seeded(request: GenerationRequest) -> Sampling:
    return replace(request.sampling, seed=secrets.randbits(64))
