"""/v1/messages and /v1/messages/count_tokens: from their bodies to a call, or to a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from numoe.coordinator.api.answering import Answer, Question, count_prompt
from numoe.coordinator.api.anthropic.answers import Head, MessageStream, WholeMessage
from numoe.coordinator.api.anthropic.bodies import CountBody, MessageBody, constraint_of, conversation_of
from numoe.coordinator.api.anthropic.errors import in_body
from numoe.coordinator.api.bodies import meant_sampling, read_body
from numoe.coordinator.api.conversation import Conversation
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.api.telling import Call, Teller
from numoe.coordinator.requests.request import GenerationRequest, check_stop_counts
from numoe.protos.errors import InvalidRequest

_SAMPLING = ("temperature", "top_p", "top_k")


def read_messages(body: bytes, request_id: str, served: ServedModel) -> Call:
    """The call that a body asks for. Raises InvalidRequest."""
    message = read_body(body, MessageBody)
    stop = tuple(message.stop_sequences or ())
    try:
        check_stop_counts(len(stop), 0)
    except InvalidRequest as error:
        raise in_body(error) from error
    given = {name: value for name in _SAMPLING if (value := getattr(message, name)) is not None}
    request = GenerationRequest(
        request_id=request_id,
        prompt=(),
        sampling=replace(served.suggested_sampling, **meant_sampling(given)),
        max_tokens=message.max_tokens,
        stop=stop,
        constraint=constraint_of(message),
    )
    question = Question(
        _conversation_of(message, served), request, seeded=False, model=message.model or "", fitted=True
    )
    head = Head(f"msg_{request_id}", served.spec.name)
    tell = partial(_tell, head, streamed=bool(message.stream))
    return Call([question], 1, bool(message.stream), tell, in_body)


async def count_tokens(body: bytes, served: ServedModel) -> dict[str, Any]:
    """How many tokens a conversation's prompt has. Raises InvalidRequest."""
    counted = read_body(body, CountBody)
    conversation, request = _conversation_of(counted, served), GenerationRequest("", ())
    question = Question(conversation, request, seeded=True, model=counted.model or "")
    try:
        return {"input_tokens": await count_prompt(question, served)}
    except InvalidRequest as error:
        raise in_body(error) from error


def _conversation_of(body: CountBody, served: ServedModel) -> Conversation:
    conversation = conversation_of(body)
    if served.formats.thought is None:  # agents tell a budget whatever the model is
        return replace(conversation, thinking_budget=None)
    return conversation


def _tell(head: Head, answers: Sequence[Answer], *, streamed: bool) -> Teller:
    [answer] = answers
    return MessageStream(head, answer) if streamed else WholeMessage(head, answer)
