"""/v1/completions: text that goes on where a prompt, or each of several, ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from numoe.coordinator.api.answering import Answer, Question, Text, TokenIds
from numoe.coordinator.api.bodies import read_body
from numoe.coordinator.api.failures import Failure
from numoe.coordinator.api.openai.echoes import DecodedOffsets, Echo, Offsets, echo_of
from numoe.coordinator.api.openai.errors import in_body, refusal
from numoe.coordinator.api.openai.facts import (
    Head,
    TokenLogprob,
    encode,
    last_of_stream,
    logprobs_of,
    prompt_logprobs_of,
    spelled_token,
    timings_of,
    whole_answer,
)
from numoe.coordinator.api.openai.form import constraint_of
from numoe.coordinator.api.openai.settings import Settings, choices_of, request_of
from numoe.coordinator.api.openai.unsupported import check_completion
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.api.telling import Call, Teller, Told, sse
from numoe.coordinator.requests.events import Delta, Finished, FinishReason
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import InvalidRequest

MOST_ANSWERS = 64  # of one call, to all its prompts together: as many as may wait where nobody chose otherwise


class CompletionBody(Settings, kw_only=True):
    """What a completion takes."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @property
    def only_scored(self) -> bool:
        """Whether the prompt is all that the answer has."""
        return bool(self.echo) and self.max_tokens == 0


def read_completion(body: bytes, request_id: str, served: ServedModel) -> Call:
    """The call that a body asks for. Raises InvalidRequest."""
    completion = read_body(body, CompletionBody)
    choices, (form, constraint) = choices_of(completion), constraint_of(completion)
    check_completion(completion.suffix, completion.best_of, choices)
    prompts = _prompts_of(completion.prompt)
    if len(prompts) * choices > MOST_ANSWERS:
        raise InvalidRequest("prompt", f"asks for {len(prompts)} times {choices} answers; at most {MOST_ANSWERS}")
    if completion.only_scored and completion.min_tokens:
        raise InvalidRequest("min_tokens", f"is {completion.min_tokens}; expected 0, the most that may be drawn")
    drawn = 1 if completion.only_scored else completion.max_tokens  # the engine draws one at least, which is not told
    request = request_of(completion, drawn, served.suggested_sampling, request_id)
    request = replace(
        request,
        constraint=constraint,
        top_logprobs=completion.logprobs or 0,
        prompt_logprobs=bool(completion.echo) and completion.logprobs is not None,
    )
    questions = [
        Question(prompt, request, seeded=completion.seeded, model=completion.model or "", fitted=True)
        for prompt in prompts
    ]
    head = Head(f"cmpl-{request_id}", served.spec.name)
    tell = partial(_tell, completion, prompts, head, choices, served)
    return Call(
        questions, choices, bool(completion.stream), tell, partial(in_body, prompt="prompt", form=form, top="logprobs")
    )


def _prompts_of(prompt: str | list[str | int | list[int]]) -> list[Text | TokenIds]:
    """Control tokens that are written in a prompt are such tokens: who completes text writes its template himself."""
    if isinstance(prompt, str):
        return [Text(prompt, parse_special=True)]
    if prompt and all(isinstance(one, int) for one in prompt):
        return [TokenIds(prompt)]  # type: ignore[arg-type]  # as was just looked at
    prompts = list[Text | TokenIds]()
    for index, one in enumerate(prompt):
        if isinstance(one, int):
            raise InvalidRequest(f"prompt[{index}]", "is a token id beside prompts; expected all of one kind")
        prompts.append(Text(one, parse_special=True) if isinstance(one, str) else TokenIds(one))
    if not prompts:
        raise InvalidRequest("prompt", "is empty; expected a text, token ids, or a list of them")
    return prompts


def _tell(
    completion: CompletionBody,
    prompts: Sequence[Text | TokenIds],
    head: Head,
    choices: int,
    served: ServedModel,
    answers: Sequence[Answer],
) -> Teller:
    logprobs_by = None if completion.logprobs is None else served.tokenizer
    echoes = [echo_of(prompt, served.tokenizer) if completion.echo else None for prompt in prompts]
    told = [
        TextChoice(answer, logprobs_by, echoes[number // choices], drawn=not completion.only_scored)
        for number, answer in enumerate(answers)
    ]
    if completion.stream:
        return CompletionStream(head, told, choices, usage=completion.includes_usage)
    return WholeCompletion(head, told, choices)


class TextChoice:
    """One answer, as far as it is read."""

    def __init__(self, answer: Answer, logprobs_by: Tokenizer | None, echo: Echo | None, *, drawn: bool) -> None:
        """`logprobs_by` spells the tokens whose log-probabilities are wanted; None: they are not, as for `echo`, the
        prompt before the answer. `drawn`: whether what is drawn is told."""
        self._request, self._tokenizer, self._drawn = answer.request, logprobs_by, drawn
        self._text = [] if echo is None else [echo.text]
        self._logprobs: list[tuple[TokenLogprob, int]] = []  # and where the token starts in the text
        self.finished: Finished | None = None
        if logprobs_by is None:
            return
        self._offsets: Offsets = DecodedOffsets(logprobs_by, answer.request.shown_tokens, sum(map(len, self._text)))
        if echo is not None:
            self._prompt_offsets = echo.new_offsets()
            first = spelled_token(answer.request.prompt[0], None, logprobs_by)
            self._add([first], self._prompt_offsets)

    def read(self, event: Told) -> None:
        """Take what an event adds."""
        if isinstance(event, Finished):
            self.finished = event if self._drawn else _without_draw(event)
        elif isinstance(event, Delta):
            if self._drawn:
                self._text.append(event.text)
            if self._drawn and self._tokenizer is not None:
                self._add(logprobs_of(event, self._request, self._tokenizer), self._offsets)
        elif self._tokenizer is not None:
            self._add(prompt_logprobs_of(event, self._tokenizer), self._prompt_offsets)

    def take(self, number: int) -> dict[str, Any]:
        """The choice, with what was read since the last call."""
        text, self._text = "".join(self._text), []
        told: dict[str, Any] = {"text": text, "index": number, "logprobs": None}
        if self._tokenizer is not None:
            told["logprobs"] = self._take_logprobs()
        return told | {"finish_reason": self.finished.reason.value if self.finished else None}

    def _add(self, tokens: Sequence[TokenLogprob], offsets: Offsets) -> None:
        self._logprobs += [(token, offsets.place(token.id)) for token in tokens]

    def _take_logprobs(self) -> dict[str, Any]:
        told, self._logprobs = self._logprobs, []
        return {
            "tokens": [_spelled(one.bytes) for one, _ in told],
            "token_logprobs": [one.logprob for one, _ in told],
            "top_logprobs": [_alternatives(one) for one, _ in told] if self._request.top_logprobs else None,
            "text_offset": [offset for _, offset in told],
        }


def _without_draw(finished: Finished) -> Finished:
    """The end of an answer that is the prompt alone."""
    usage = replace(finished.usage, completion_tokens=0)
    return replace(finished, reason=FinishReason.LENGTH, stop_match=None, usage=usage)


def _alternatives(token: TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens with the one that is there, though it be none of them; None: nothing comes before it."""
    told: dict[str, float] = {}
    for one in (*token.likeliest, token):
        if one.logprob is not None:
            told.setdefault(_spelled(one.bytes), one.logprob)
    return told or None


def _spelled(token: bytes) -> str:
    """A token as OpenAI's completions spell it: what is no whole UTF-8 by its bytes, of which ASCII stays readable."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        readable = range(0x20, 0x7F)
        return "bytes:" + "".join(chr(b) if b in readable and b != 0x5C else f"\\x{b:02x}" for b in token)


class CompletionStream:
    """Tells answers as chunks."""

    def __init__(self, head: Head, told: Sequence[TextChoice], choices: int, *, usage: bool) -> None:
        """`choices`: to each prompt; `usage`: whether a last chunk tells it."""
        self._head = head.of("text_completion") | ({"usage": None} if usage else {})
        self._told, self._choices, self._usage = told, choices, usage

    def begin(self) -> bytes:
        return b""

    def add(self, number: int, event: Told) -> bytes:
        choice = self._told[number]
        choice.read(event)
        more = {"timings": timings_of(choice.finished)} if choice.finished else {}
        return sse(encode(self._head | {"choices": [choice.take(number)]} | more))

    def end(self) -> bytes:
        answers = (choice.finished for choice in self._told)
        return last_of_stream(self._head, answers, self._choices, usage=self._usage)

    def fail(self, failure: Failure, status: int) -> bytes:
        return sse(encode(refusal(failure, status)))


class WholeCompletion:
    """Tells answers once all of them are finished."""

    def __init__(self, head: Head, told: Sequence[TextChoice], choices: int) -> None:
        """`choices`: to each prompt."""
        self._head, self._told, self._choices = head.of("text_completion"), told, choices

    def begin(self) -> bytes:
        return b""

    def add(self, number: int, event: Told) -> bytes:
        self._told[number].read(event)
        return b""

    def end(self) -> bytes:
        told = [choice.take(number) for number, choice in enumerate(self._told)]
        return whole_answer(self._head, told, (choice.finished for choice in self._told), self._choices)

    def fail(self, failure: Failure, status: int) -> bytes:
        return encode(refusal(failure, status))
