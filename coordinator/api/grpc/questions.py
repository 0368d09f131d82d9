"""From the messages of numoe.v1 to a question, and from a field at fault to its path in the client's message."""

from __future__ import annotations

from numoe.coordinator.api.answering import Conversation, Question, Text, TokenIds
from numoe.coordinator.api.prompts import Turn
from numoe.coordinator.requests.request import GenerationRequest, check_stop_counts
from numoe.coordinator.requests.request_end import Asker
from numoe.protos.errors import InvalidRequest
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import Sampling
from numoe.v1 import generation_pb2

QuestionMessage = generation_pb2.GenerateRequest | generation_pb2.ChatRequest

_STOPPING_FIELDS = ("max_tokens", "min_tokens", "stop", "stop_token_ids")


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
        sampling=Sampling(**{field.name: value for field, value in message.sampling.ListFields()}),
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
        key=asker.key,
        experts=_experts(message.experts) if message.HasField("experts") else None,
    )
    return Question(_prompt(message, most_turns), request, message.sampling.HasField("seed"), message.model)


def _experts(message: generation_pb2.ExpertReduction) -> ExpertReduction:
    return ExpertReduction(**{field.name: value for field, value in message.ListFields()})


def _prompt(message: QuestionMessage, most_turns: int) -> Text | TokenIds | Conversation:
    if isinstance(message, generation_pb2.ChatRequest):
        if len(message.messages) > most_turns:
            raise InvalidRequest("messages", f"are {len(message.messages)}; at most {most_turns} fit the context")
        return Conversation([Turn(turn.role, turn.content) for turn in message.messages])
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
    if root in _STOPPING_FIELDS:
        field = f"stopping.{error.field}"
    elif root == "prompt":
        field = _prompt_field(message) + error.field.removeprefix("prompt")
    return InvalidRequest(field, error.problem)


def _prompt_field(message: QuestionMessage) -> str:
    """Where a fault of the prompt's tokens lies in the client's message."""
    if isinstance(message, generation_pb2.ChatRequest):
        return "messages"
    return "token_ids.ids" if message.WhichOneof("input") == "token_ids" else "text"
