"""Answering, in no protocol's words: a question becomes a request to the engine, whose events answer it.

Every door calls `submit` with plain data and says the events in its own messages. Defaults stand on the fields of
GenerationRequest and Sampling, and nowhere else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from numoe.coordinator.api.conversation import Conversation, check_conversation
from numoe.coordinator.api.encoding import (
    DETOKENIZED_IDS,
    TOKENIZED_BYTES,
    Checkpoint,
    Encoder,
    byte_length,
    work_apart,
)
from numoe.coordinator.api.prompts import Rendered, decode, encode_rendered, encode_text, render_conversation
from numoe.coordinator.api.reading import constraint_of, reader_of, shown_tokens, thought_tokens
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.requests.constraint import Constraint, Guide
from numoe.coordinator.requests.events import Delta, Event, Finished
from numoe.coordinator.requests.generation import Generation
from numoe.coordinator.requests.request import GenerationRequest, check_prompt_length, token_budget
from numoe.coordinator.requests.seeds import seed_of_answer
from numoe.coordinator.requests.thought import ThoughtTokens
from numoe.model.chat.parts import AnswerPart, Content
from numoe.model.chat.reader import AnswerReader
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
class Question:
    """What a client asks."""

    prompt: Text | TokenIds | Conversation
    request: GenerationRequest  # without the prompt's tokens
    seeded: bool  # whether the client gave the seed in `request`; else one is drawn
    model: str = ""  # which model the client expects; "": whichever is served
    fitted: bool = False  # whether max_tokens may be more than the context leaves room for: then so many are drawn


@dataclass(frozen=True, slots=True)
class Answer:
    """An accepted request."""

    request: GenerationRequest
    max_tokens: int  # that it may draw
    generation: Generation  # its events; whoever stops reading them cancels it
    reader: AnswerReader | None  # of what a conversation is answered; None: there was none

    @property
    def called(self) -> bool:
        """Whether it called tools so far."""
        return self.reader is not None and self.reader.calls > 0

    def read(self, event: Event) -> Sequence[AnswerPart]:
        """What the answer goes on with at this event; to be called with each, once. Ends an answer that is over."""
        text = event.text if isinstance(event, Delta) else ""
        if self.reader is None:
            return (Content(text),) if text else ()
        if isinstance(event, Finished):
            return self.reader.finish()
        parts = self.reader.push(text)
        if self.reader.over:
            self.generation.stop()
        return parts


async def submit(question: Question, served: ServedModel) -> Answer:
    """Encode the prompt and queue the request.

    Raises:
        InvalidRequest: a field is at fault; named as in GenerationRequest, or model, messages.
        UnsupportedModel: a conversation, and the model has no template.
        QueueFull, Unavailable: not now; asked before anything is encoded.
        DeadlineExceeded: encoding took too long.
    """
    [answer] = await submit_choices(question, 1, served)
    return answer


async def submit_choices(question: Question, choices: int, served: ServedModel) -> list[Answer]:
    """Encode the prompt once, and queue so many requests with it: all, or none. Raises as `submit` does."""
    check_model(question.model, served)
    served.engine.refuse_if_closed_or_full()  # which costs nothing; encoding does
    prompt = await _encode(question, served, served.limits.context_tokens)
    request = replace(
        question.request,
        prompt=tuple(prompt.token_ids),
        sampling=question.request.sampling if question.seeded else _seeded(question.request),
        constraint=prompt.constraint,
        thought=prompt.thought,
        shown_tokens=prompt.shown_tokens,
    )
    if question.fitted and request.max_tokens is not None:
        room = max(1, served.limits.context_tokens - len(request.prompt))
        request = replace(request, max_tokens=min(request.max_tokens, room))
    guide = await _guide_of(request, question.request.constraint, served)
    answers: list[Answer] = []
    try:
        for number in range(choices):
            seed = seed_of_answer(request.sampling.seed, number)
            one = replace(request, sampling=replace(request.sampling, seed=seed))
            generation = served.engine.submit(one, guide if guide is None else guide.copy())
            answers.append(Answer(one, token_budget(one, served.limits), generation, prompt.new_reader()))
    except BaseException:
        for answer in answers:
            answer.generation.cancel()
        raise
    return answers


async def count_prompt(question: Question, served: ServedModel) -> int:
    """How many tokens the prompt has, though they be more than the context's.

    Raises as `submit` does, but of the queue, and InvalidRequest for what is longer than is tokenized in one call.
    """
    check_model(question.model, served)
    prompt = question.prompt
    if isinstance(prompt, Conversation) and prompt.characters > TOKENIZED_BYTES:
        problem = f"has {prompt.characters} characters; at most {TOKENIZED_BYTES} are counted in one call"
        raise InvalidRequest("prompt", problem)
    return len((await _encode(question, served, None)).token_ids)


def check_model(name: str, served: ServedModel) -> None:
    """Raises InvalidRequest where a client expects another model than the one that is served; "": it expects none."""
    if name and name != served.spec.name:
        raise InvalidRequest("model", f"is {name!r:.100}; this service serves {served.spec.name!r}, and no other")


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


async def detokenize(served: ServedModel, ids: Sequence[int], deadline: float | None, *, control: bool = False) -> str:
    """The text of some tokens, control tokens by name if `control`; `deadline` in time.monotonic().

    Raises:
        InvalidRequest: there are too many ids, or one is outside the vocabulary.
        DeadlineExceeded: it took too long.
    """
    if len(ids) > DETOKENIZED_IDS:
        raise InvalidRequest("ids", f"has {len(ids)} ids; at most {DETOKENIZED_IDS} are decoded in one call")
    last = served.spec.vocabulary - 1
    if min(ids, default=0) < 0 or max(ids, default=0) > last:
        index, token_id = next((i, t) for i, t in enumerate(ids) if not 0 <= t <= last)
        raise InvalidRequest(f"ids[{index}]", f"is {token_id}; this model's ids are 0 to {last}")

    def work(checkpoint: Checkpoint) -> str:
        return decode(served.tokenizer, ids, checkpoint, control=control)

    return await work_apart(work, len(ids), deadline)


async def render(served: ServedModel, conversation: Conversation, deadline: float | None) -> str:
    """The prompt of a conversation as text; `deadline` in time.monotonic().

    Raises:
        InvalidRequest: a field is at fault.
        UnsupportedModel: the model has no template.
        DeadlineExceeded: it took too long.
    """

    def work(checkpoint: Checkpoint) -> str:
        rendered = _render(conversation, served, Encoder(served.tokenizer, checkpoint))
        return "".join(part.text for part in rendered.parts)

    return await work_apart(work, conversation.characters, deadline)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt that is ready to be run."""

    token_ids: Sequence[int]
    new_reader: Callable[[], AnswerReader | None] = lambda: None
    constraint: Constraint | None = None
    thought: ThoughtTokens | None = None
    shown_tokens: frozenset[int] = frozenset()


async def _encode(question: Question, served: ServedModel, most_tokens: int | None) -> _Prompt:
    """A question's prompt in tokens; what is too long is refused before anything is converted or encoded."""
    prompt = question.prompt
    deadline = served.engine.deadline_of(question.request, time.monotonic())
    match prompt:
        case TokenIds():
            check_prompt_length(len(prompt.ids), served.limits)
            return _Prompt(prompt.ids, constraint=question.request.constraint)
        case Text():
            Encoder(served.tokenizer, most_tokens=most_tokens).refuse_too_long(prompt.text)
            characters = len(prompt.text)
        case Conversation():
            characters = prompt.characters

    def work(checkpoint: Checkpoint) -> _Prompt:
        encoder = Encoder(served.tokenizer, checkpoint, most_tokens)
        if isinstance(prompt, Text):
            token_ids = encode_text(encoder, prompt.text, special=prompt.parse_special)
            return _Prompt(token_ids, constraint=question.request.constraint)
        rendered = _render(prompt, served, encoder)
        new_reader = partial(reader_of, prompt, served.formats, rendered.beginning)
        constraint = constraint_of(prompt, served.formats, served.tokenizer, question.request.constraint)
        guided = constraint is not None
        thought = thought_tokens(prompt, served.formats, served.tokenizer, rendered.beginning, guided=guided)
        shown = shown_tokens(prompt, served.formats, served.tokenizer)
        return _Prompt(encode_rendered(encoder, rendered), new_reader, constraint, thought, shown)

    return await work_apart(work, characters, deadline)


def _render(conversation: Conversation, served: ServedModel, encoder: Encoder) -> Rendered:
    if served.template is None:
        raise UnsupportedModel(f"{served.spec.name!r} has no working chat template in its file; use Generate")
    check_conversation(conversation)
    return render_conversation(encoder, served.template, served.formats, conversation)


async def _guide_of(request: GenerationRequest, asked: Constraint | None, served: ServedModel) -> Guide | None:
    """What guides the draws of a request by its constraint; `asked`: the one that its client wrote."""
    if request.constraint is None:
        return None
    try:
        return await served.guides.compile(request.constraint)
    except InvalidRequest as error:
        if request.constraint is asked:
            raise
        raise InvalidRequest("tools", f"make a grammar that cannot be obeyed: it {error.problem}") from error


def _seeded(request: GenerationRequest) -> Sampling:
    return replace(request.sampling, seed=secrets.randbits(64))
