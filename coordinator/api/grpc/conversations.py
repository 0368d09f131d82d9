"""From the messages of numoe.v1 to a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.struct_pb2 import Struct, Value

from numoe.coordinator.api.conversation import (
    SCHEMA_BYTES,
    VARIABLES_BYTES,
    Conversation,
    Tool,
    ToolCall,
    ToolChoice,
    Turn,
    check_counts,
)
from numoe.protos.errors import InvalidRequest
from numoe.v1 import generation_pb2

VARIABLES_MESSAGE_BYTES = 4 * VARIABLES_BYTES  # of a Struct, which takes a little more than JSON

_CHOICES: Mapping[int, ToolChoice] = MappingProxyType(
    {
        generation_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: ToolChoice.AUTO,
        generation_pb2.TOOL_CHOICE_MODE_AUTO: ToolChoice.AUTO,
        generation_pb2.TOOL_CHOICE_MODE_NONE: ToolChoice.NONE,
        generation_pb2.TOOL_CHOICE_MODE_REQUIRED: ToolChoice.REQUIRED,
    }
)


def read_conversation(message: generation_pb2.ChatRequest) -> Conversation:
    """The conversation of a message. Raises InvalidRequest for what cannot be read as one."""
    calls = sum(len(turn.tool_calls) for turn in message.messages)
    check_counts(len(message.messages), calls, len(message.tools))
    thinking = message.thinking
    return Conversation(
        turns=[_turn(turn) for turn in message.messages],
        tools=[_tool(tool, index) for index, tool in enumerate(message.tools)],
        choice=_choice(message.tool_choice),
        parallel_calls=message.parallel_tool_calls if message.HasField("parallel_tool_calls") else True,
        variables=_variables(message.template_variables),
        thinking=thinking.enabled if thinking.HasField("enabled") else None,
        thinking_budget=thinking.budget_tokens if thinking.HasField("budget_tokens") else None,
    )


def _turn(message: generation_pb2.ChatMessage) -> Turn:
    return Turn(
        role=message.role,
        content=message.content,
        reasoning=message.reasoning,
        calls=tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls),
        call_id=message.tool_call_id,
        name=message.name,
    )


def _tool(message: generation_pb2.Tool, index: int) -> Tool:
    if len(message.parameters) > SCHEMA_BYTES:
        problem = f"has {len(message.parameters)} characters; at most {SCHEMA_BYTES} bytes are allowed"
        raise InvalidRequest(f"tools[{index}].parameters", problem)
    try:
        parameters = json.loads(message.parameters or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"tools[{index}].parameters", f"is no JSON: {error}") from error
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"tools[{index}].parameters", f"is a {type(parameters).__name__}, expected an object")
    return Tool(message.name, message.description, parameters)


def _choice(message: generation_pb2.ToolChoice) -> ToolChoice | str:
    if message.WhichOneof("choice") == "function":
        return message.function
    if message.mode not in _CHOICES:
        raise InvalidRequest("tool_choice.mode", f"is {message.mode}; expected one of {', '.join(map(str, _CHOICES))}")
    return _CHOICES[message.mode]


def _variables(message: Struct) -> Mapping[str, object]:
    """Plain data, in an order of its own: that of a Struct may change from one process to the next."""
    if message.ByteSize() > VARIABLES_MESSAGE_BYTES:
        raise InvalidRequest("template_variables", f"takes {message.ByteSize()} bytes, which is too much")
    return {name: _plain(value) for name, value in sorted(message.fields.items())}


def _plain(value: Value) -> object:
    """A value of a Struct, which has no whole numbers: those that could be are."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return {name: _plain(inner) for name, inner in sorted(value.struct_value.fields.items())}
        case "list_value":
            return [_plain(inner) for inner in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
    return None
