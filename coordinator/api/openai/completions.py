"""/v1/completions: text that goes on where a prompt, or each of several, ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

from numoe.coordinator.api.answering import Answer, Question, Text, TokenIds
from numoe.coordinator.api.bodies import read_body
from numoe.coordinator.api.failures import Failure
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
from numoe.coordinator.api.prompts import decode
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.api.telling import Call, Teller, Told, sse
from numoe.coordinator.requests.events import Delta, Finished
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


def read_completion(body: bytes, request_id: str, served: ServedModel) -> Call:
    """The call that a body asks for. Raises InvalidRequest."""
    completion = read_body(body, CompletionBody)
    choices, (form, constraint) = choices_of(completion), constraint_of(completion)
    check_completion(completion.suffix, completion.best_of, choices)
    prompts = _prompts_of(completion.prompt)
    if len(prompts) * choices > MOST_ANSWERS:
        raise InvalidRequest("prompt", f"asks for {len(prompts)} times {choices} answers; at most {MOST_ANSWERS}")
    request = request_of(completion, completion.max_tokens, served.suggested_sampling, request_id)
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
    tell = partial(_tell, completion, head, choices, served)
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
    completion: CompletionBody, head: Head, choices: int, served: ServedModel, answers: Sequence[Answer]
) -> Teller:
    logprobs_by = None if completion.logprobs is None else served.tokenizer
    echo_by = served.tokenizer if completion.echo else None
    told = [TextChoice(answer, logprobs_by, echo_by) for answer in answers]
    if completion.stream:
        return CompletionStream(head, told, choices, usage=completion.includes_usage)
    return WholeCompletion(head, told, choices)


class TextChoice:
    """One answer, as far as it is read."""

    def __init__(self, answer: Answer, logprobs_by: Tokenizer | None, echo_by: Tokenizer | None) -> None:
        """`logprobs_by` spells the tokens whose log-probabilities are wanted, `echo_by` the prompt before the answer;
        None: they are not wanted."""
        self._request, self._tokenizer = answer.request, logprobs_by
        prompt = answer.request.prompt
        self._text = [] if echo_by is None else [decode(echo_by, prompt)]
        self._logprobs: list[TokenLogprob] = []
        if logprobs_by is not None and echo_by is not None:
            self._logprobs.append(spelled_token(prompt[0], None, logprobs_by))
        self._offset = 0
        self.finished: Finished | None = None

    def read(self, event: Told) -> None:
        """Take what an event adds."""
        if isinstance(event, Finished):
            self.finished = event
        elif isinstance(event, Delta):
            self._text.append(event.text)
            if self._tokenizer is not None:
                self._logprobs += logprobs_of(event, self._request, self._tokenizer)
        elif self._tokenizer is not None:
            self._logprobs += prompt_logprobs_of(event, self._tokenizer)

    def take(self, number: int) -> dict[str, Any]:
        """The choice, with what was read since the last call."""
        text, self._text = "".join(self._text), []
        told: dict[str, Any] = {"text": text, "index": number, "logprobs": None}
        if self._tokenizer is not None:
            told["logprobs"] = self._take_logprobs()
        return told | {"finish_reason": self.finished.reason.value if self.finished else None}

    def _take_logprobs(self) -> dict[str, Any]:
        tokens, self._logprobs = self._logprobs, []
        *offsets, self._offset = accumulate((len(one.text) for one in tokens), initial=self._offset)
        return {
            "tokens": [one.text for one in tokens],
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": [_alternatives(one) for one in tokens] if self._request.top_logprobs else None,
            "text_offset": offsets,
        }


def _alternatives(token: TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens with the one that is there, though it be none of them; None: nothing comes before it."""
    told: dict[str, float] = {}
    for one in (*token.likeliest, token):
        if one.logprob is not None:
            told.setdefault(one.text, one.logprob)
    return told or None


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
        more = {"timings": timings_of(event)} if isinstance(event, Finished) else {}
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
