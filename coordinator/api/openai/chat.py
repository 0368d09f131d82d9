"""/v1/chat/completions: from its body to a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from numoe.coordinator.api.answering import Answer, Question
from numoe.coordinator.api.bodies import read_body
from numoe.coordinator.api.conversation import Conversation
from numoe.coordinator.api.openai.chat_answers import ChatChoice, ChatStream, WholeChat
from numoe.coordinator.api.openai.errors import in_body
from numoe.coordinator.api.openai.facts import Head
from numoe.coordinator.api.openai.form import constraint_of
from numoe.coordinator.api.openai.messages import FunctionTool, Message, NamedTool, choice_of, tools_of, turns_of
from numoe.coordinator.api.openai.settings import Settings, choices_of, request_of
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.api.telling import Call, Teller
from numoe.protos.errors import InvalidRequest

NO_EFFORT = "none"  # of reasoning; what others mean is the template's matter


class ChatBody(Settings, kw_only=True):
    """What a chat completion takes."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    thinking_budget: int | None = None  # tokens of thought, as Qwen's own service takes them
    chat_template_kwargs: dict[str, Any] | None = None


def read_chat(body: bytes, request_id: str, served: ServedModel) -> Call:
    """The call that a body asks for. Raises InvalidRequest."""
    chat = read_body(body, ChatBody)
    if chat.top_logprobs and not chat.logprobs:
        raise InvalidRequest("top_logprobs", "is given without logprobs; expected logprobs: true beside it")
    choices, (form, constraint) = choices_of(chat), constraint_of(chat)
    most = chat.max_tokens if chat.max_completion_tokens is None else chat.max_completion_tokens
    request = request_of(chat, most, served.suggested_sampling, request_id)
    question = Question(
        conversation_of(chat),
        replace(request, constraint=constraint, top_logprobs=chat.top_logprobs or 0),
        seeded=chat.seeded,
        model=chat.model or "",
        fitted=True,
    )
    head = Head(f"chatcmpl-{request_id}", served.spec.name)
    tell = partial(_tell, chat, head, served)
    return Call([question], choices, bool(chat.stream), tell, partial(in_body, prompt="messages", form=form))


def conversation_of(chat: ChatBody) -> Conversation:
    """The conversation in a body. Raises InvalidRequest."""
    variables = dict(chat.chat_template_kwargs or {})
    if chat.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", chat.reasoning_effort)
    return Conversation(
        turns=turns_of(chat.messages),
        tools=tools_of(chat.tools or []),
        choice=choice_of(chat.tool_choice),
        parallel_calls=chat.parallel_tool_calls is not False,
        variables=variables,
        thinking=False if chat.reasoning_effort == NO_EFFORT else None,
        thinking_budget=chat.thinking_budget,
    )


def _tell(chat: ChatBody, head: Head, served: ServedModel, answers: Sequence[Answer]) -> Teller:
    logprobs_by = served.tokenizer if chat.logprobs else None
    choices = [ChatChoice(answer, logprobs_by) for answer in answers]
    return ChatStream(head, choices, usage=chat.includes_usage) if chat.stream else WholeChat(head, choices)
