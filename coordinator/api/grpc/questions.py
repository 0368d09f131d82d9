"""From the messages of numoe.v1 to a question, and from a field at fault to its path in the client's message."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from numoe.coordinator.api.answering import Question, Text, TokenIds
from numoe.coordinator.api.conversation import Conversation
from numoe.coordinator.api.grpc.conversations import read_conversation
from numoe.coordinator.requests.constraint import FIELD, Constraint, Grammar, any_json_object, one_of
from numoe.coordinator.requests.repeats import Dry
from numoe.coordinator.requests.request import GenerationRequest, Priority, check_stop_counts
from numoe.coordinator.requests.request_end import Asker
from numoe.protos.errors import InvalidRequest
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import Sampling
from numoe.v1 import generation_pb2

QuestionMessage = generation_pb2.GenerateRequest | generation_pb2.ChatRequest

_PRIORITIES = {
    generation_pb2.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    generation_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    generation_pb2.PRIORITY_BATCH: Priority.BATCH,
}
# Where fields of GenerationRequest lie in a message.
_FOLDERS = {
    "max_tokens": "stopping",
    "min_tokens": "stopping",
    "stop": "stopping",
    "stop_token_ids": "stopping",
    "logit_bias": "sampling",
    "top_logprobs": "response",
}
_OWN = tuple(field.name for field in fields(Sampling))  # of the message's fields, those that Sampling has


def read_question(message: QuestionMessage, deadline: float | None, most_turns: int, asker: Asker) -> Question:
    """What the message asks; fields that it leaves out keep their defaults.

    Args:
        deadline: when the client gives up, in time.monotonic(); None: never.
        most_turns: of a conversation; more are not even read.
        asker: who asks.

    Raises:
        InvalidRequest: there is no prompt, or too much of something.
    """
    stopping = message.stopping
    check_stop_counts(len(stopping.stop), len(stopping.stop_token_ids))
    request = GenerationRequest(
        request_id=asker.request_id,
        prompt=(),
        sampling=Sampling(**{name: value for name, value in _given(message.sampling) if name in _OWN}),
        max_tokens=stopping.max_tokens if stopping.HasField("max_tokens") else None,
        min_tokens=stopping.min_tokens,
        stop=tuple(stopping.stop),
        stop_token_ids=frozenset(stopping.stop_token_ids),
        ignore_eos=stopping.ignore_eos,
        include_stop=stopping.include_stop,
        deadline=deadline,
        client=asker.client,
        method=asker.method,
        trace=asker.trace,
        priority=_priority(message.priority),
        key=asker.key,
        experts=_experts(message.experts) if message.HasField("experts") else None,
        logit_bias=tuple(sorted(message.sampling.logit_bias.items())),
        constraint=_constraint(message.guided) if message.HasField("guided") else None,
        dry=_dry(message.sampling.dry) if message.sampling.HasField("dry") else None,
        top_logprobs=message.response.top_logprobs,
        prompt_logprobs=message.response.prompt_logprobs,
    )
    return Question(_prompt(message, most_turns), request, message.sampling.HasField("seed"), message.model)


def _priority(value: generation_pb2.Priority.ValueType) -> Priority:
    try:
        return _PRIORITIES[value]
    except KeyError as error:
        raise InvalidRequest("priority", f"is {value}; expected 1 (interactive) or 2 (batch)") from error


def _given(message: generation_pb2.Sampling) -> list[tuple[str, Any]]:
    return [(field.name, value) for field, value in message.ListFields()]


def _experts(message: generation_pb2.ExpertReduction) -> ExpertReduction:
    return ExpertReduction(**{field.name: value for field, value in message.ListFields()})


def _dry(message: generation_pb2.Dry) -> Dry:
    given = {field.name: value for field, value in message.ListFields()} | {"multiplier": message.multiplier}
    if message.HasField("breakers"):
        given["breakers"] = tuple(message.breakers.texts)
    return Dry(**given)


def _constraint(message: generation_pb2.Guided) -> Constraint:
    match kind := message.WhichOneof("grammar"):
        case "choice":
            return one_of(message.choice.texts)
        case "json_object":
            return any_json_object()
        case None:
            raise InvalidRequest(FIELD, f"is empty; expected one of {', '.join(Grammar)}, choice, json_object")
    return Constraint(Grammar(kind), getattr(message, kind))


def _prompt(message: QuestionMessage, most_turns: int) -> Text | TokenIds | Conversation:
    if isinstance(message, generation_pb2.ChatRequest):
        if len(message.messages) > most_turns:
            raise InvalidRequest("messages", f"are {len(message.messages)}; at most {most_turns} fit the context")
        return read_conversation(message)
    match message.WhichOneof("input"):
        case "text":
            return Text(message.text, message.parse_special)
        case "token_ids":
            return TokenIds(message.token_ids.ids)
        case _:
            raise InvalidRequest("input", "is missing; expected text or token_ids")


def in_message(error: InvalidRequest, message: QuestionMessage) -> InvalidRequest:
    """The same fault under the path that the field has in the client's message."""
    root = error.field.partition("[")[0]
    field = error.field
    if root in _FOLDERS:
        field = f"{_FOLDERS[root]}.{error.field}"
    elif root == "thinking_budget":
        field = "thinking.budget_tokens"
    elif root == "prompt":
        field = _prompt_field(message) + error.field.removeprefix("prompt")
    return error.named(field)


def _prompt_field(message: QuestionMessage) -> str:
    """Where a fault of the prompt's tokens lies in the client's message."""
    if isinstance(message, generation_pb2.ChatRequest):
        return "messages"
    return "token_ids.ids" if message.WhichOneof("input") == "token_ids" else "text"
