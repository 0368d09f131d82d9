"""The bodies of /v1/messages and /v1/messages/count_tokens, and the conversation that they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from numoe.coordinator.api.bodies import schema_text
from numoe.coordinator.api.conversation import Conversation, Tool, ToolCall, ToolChoice, Turn
from numoe.coordinator.requests.constraint import Constraint, schema_of
from numoe.protos.errors import InvalidRequest

_CHOICES = {"auto": ToolChoice.AUTO, "none": ToolChoice.NONE, "any": ToolChoice.REQUIRED}
_encode = msgspec.json.Encoder().encode


class Block(msgspec.Struct, kw_only=True):
    """A piece of a message's content; which fields it has depends on its type."""

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] | None = None
    tool_use_id: str = ""
    content: str | list[Block] | None = None  # of the result of a tool


class Message(msgspec.Struct, kw_only=True):
    """One message."""

    role: str
    content: str | list[Block]


class OfferedTool(msgspec.Struct, kw_only=True):
    """A tool."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class Choice(msgspec.Struct, kw_only=True):
    """Whether, and which, tools are to be called."""

    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class Thought(msgspec.Struct, kw_only=True):
    """Whether to think first."""

    type: str
    budget_tokens: int | None = None


class OutputFormat(msgspec.Struct, kw_only=True):
    """What the answer must be."""

    type: str
    schema: msgspec.Raw = msgspec.Raw()


class OutputConfig(msgspec.Struct, kw_only=True):
    """How the answer is to be given."""

    format: OutputFormat | None = None


class CountBody(msgspec.Struct, kw_only=True):
    """What tokens are counted of."""

    messages: list[Message]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Choice | None = None
    thinking: Thought | None = None


class MessageBody(CountBody, kw_only=True):
    """What a message is asked for with; it inherits, as msgspec reads an object into one class."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # its older name


def conversation_of(body: CountBody) -> Conversation:
    """The conversation in a body. Raises InvalidRequest."""
    system = _text_of(body.system or "", "system")
    named: dict[str, str] = {}
    turns = [Turn("system", system)] if system else []
    for index, message in enumerate(body.messages):
        turns += _turns_of(message, f"messages[{index}]", named)
    choice, thinking = body.tool_choice, body.thinking
    return Conversation(
        turns=turns,
        tools=[_tool_of(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or [])],
        choice=_choice_of(choice),
        parallel_calls=choice is None or not choice.disable_parallel_tool_use,
        thinking=thinking is not None and thinking.type != "disabled",  # there, who does not ask gets no thoughts
        thinking_budget=None if thinking is None else thinking.budget_tokens,
    )


def constraint_of(body: MessageBody) -> Constraint | None:
    """What the answer must be; None: anything. Raises InvalidRequest."""
    wanted = body.output_format if body.output_config is None else body.output_config.format
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        raise InvalidRequest("output_config.format.type", f"is {wanted.type!r:.40}; expected 'json_schema'")
    schema = schema_text(wanted.schema)
    if not schema:
        raise InvalidRequest("output_config.format.schema", "is missing; expected a JSON schema")
    return schema_of(schema, strict=True)


def _turns_of(message: Message, where: str, named: dict[str, str]) -> Iterator[Turn]:
    """A message's turns: results of tools are turns of their own. `named`: the function of each call so far."""
    if isinstance(message.content, str):
        yield Turn(message.role, message.content)
        return
    said, thought, calls = list[str](), list[str](), list[ToolCall]()
    for index, block in enumerate(message.content):
        place = f"{where}.content[{index}]"
        match block.type:
            case "text":
                said.append(block.text)
            case "thinking":
                thought.append(block.thinking)
            case "redacted_thinking":  # which only its maker can read
                pass
            case "tool_use":
                named[block.id] = block.name
                calls.append(ToolCall(block.id, block.name, _encode(block.input or {}).decode()))
            case "tool_result":
                result = _text_of(block.content or "", place)
                yield Turn("tool", result, call_id=block.tool_use_id, name=named.get(block.tool_use_id, ""))
            case _:
                raise InvalidRequest(f"{place}.type", f"is {block.type!r:.40}; this service reads text and tools only")
    if said or thought or calls:
        yield Turn(message.role, "".join(said), "".join(thought), tuple(calls))


def _text_of(content: str | list[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    for index, block in enumerate(content):
        if block.type != "text":
            raise InvalidRequest(f"{where}[{index}].type", f"is {block.type!r:.40}; this service reads text only here")
    return "\n".join(block.text for block in content)


def _tool_of(tool: OfferedTool, where: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(f"{where}.type", f"is {tool.type!r:.40}; this service runs no tools: offer your own")
    return Tool(tool.name, tool.description or "", tool.input_schema or {})


def _choice_of(choice: Choice | None) -> ToolChoice | str:
    if choice is None:
        return ToolChoice.AUTO
    if choice.type == "tool":
        return choice.name
    found = _CHOICES.get(choice.type)
    if found is None:
        raise InvalidRequest("tool_choice.type", f"is {choice.type!r:.40}; expected auto, any, tool or none")
    return found
