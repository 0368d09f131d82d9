"""The messages and tools of a chat, as OpenAI writes them, and the conversation that they make."""

from __future__ import annotations

from typing import Any

import msgspec

from numoe.coordinator.api.conversation import Tool, ToolCall, ToolChoice, Turn
from numoe.protos.errors import InvalidRequest

ROLES = {"developer": "system"}  # which templates do not know by its newer name
_CHOICES = {"auto": ToolChoice.AUTO, "none": ToolChoice.NONE, "required": ToolChoice.REQUIRED}


class Part(msgspec.Struct, kw_only=True):
    """A piece of a message's content."""

    type: str
    text: str | None = None


class CalledFunction(msgspec.Struct, kw_only=True):
    """What a call calls."""

    name: str
    arguments: str = ""


class MadeCall(msgspec.Struct, kw_only=True):
    """A call in an earlier turn of the assistant."""

    function: CalledFunction
    id: str = ""


class Message(msgspec.Struct, kw_only=True):
    """One message."""

    role: str
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[MadeCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class Function(msgspec.Struct, kw_only=True):
    """What a tool is."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class FunctionTool(msgspec.Struct, kw_only=True):
    """A tool."""

    function: Function
    type: str = "function"


class NamedFunction(msgspec.Struct, kw_only=True):
    """The name of a function."""

    name: str


class NamedTool(msgspec.Struct, kw_only=True):
    """The tool that must be called."""

    function: NamedFunction


def turns_of(messages: list[Message]) -> list[Turn]:
    """The turns. Raises InvalidRequest for content that is no text."""
    return [_turn_of(message, f"messages[{index}]") for index, message in enumerate(messages)]


def tools_of(tools: list[FunctionTool]) -> list[Tool]:
    """The tools. Raises InvalidRequest for those that are no functions."""
    for index, tool in enumerate(tools):
        if tool.type != "function":
            raise InvalidRequest(f"tools[{index}].type", f"is {tool.type!r:.40}; expected 'function'")
    functions = [tool.function for tool in tools]
    return [Tool(one.name, one.description or "", one.parameters or {}) for one in functions]


def choice_of(choice: str | NamedTool | None) -> ToolChoice | str:
    """Whether, and which, tools are to be called. Raises InvalidRequest."""
    if isinstance(choice, NamedTool):
        return choice.function.name
    found = _CHOICES.get(choice or "auto")
    if found is None:
        raise InvalidRequest("tool_choice", f"is {choice!r:.40}; expected auto, none, required, or a function")
    return found


def _turn_of(message: Message, where: str) -> Turn:
    calls = message.tool_calls or []
    return Turn(
        role=ROLES.get(message.role, message.role),
        content=_text_of(message.content, where),
        reasoning=message.reasoning_content or "",
        calls=tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in calls),
        call_id=message.tool_call_id or "",
        name=message.name or "",
    )


def _text_of(content: str | list[Part] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for index, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise InvalidRequest(
                f"{where}.content[{index}]", f"is a part of type {part.type!r:.40}; this service reads text only"
            )
    return "".join(part.text or "" for part in content)
