"""What a conversation is, in no protocol's words, and the check of what a client wrote there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType

from numoe.coordinator.api.encoding import byte_length
from numoe.model.text.chat_template import INPUT_BYTES, OWN_VARIABLES
from numoe.protos.errors import InvalidRequest

TURNS = 4096
TOOLS = 128
CALLS = 4096  # of all turns
NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # as Anthropic takes them; OpenAI's end at 64
ID_CHARACTERS = 256
SCHEMA_BYTES, SCHEMA_DEPTH = 1 << 16, 64
VARIABLES_BYTES, VARIABLES_DEPTH, VARIABLES_NODES = 1 << 14, 16, 128
SWITCHES = ("enable_thinking", "thinking")  # what templates call the variable that turns thoughts on and off
_NAME_EXPECTED = "expected 1 to 128 letters, digits, dots, underscores and hyphens"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))  # a JSON schema


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made."""

    id: str
    name: str
    arguments: str  # JSON text, as the model wrote it: perhaps broken


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str
    reasoning: str = ""  # of the assistant, before its content
    calls: tuple[ToolCall, ...] = ()  # of the assistant, after its content
    call_id: str = ""  # of role "tool": which call this is the result of
    name: str = ""  # of role "tool": the function


class ToolChoice(Enum):
    """Whether tools are to be called; one of them by its name is a choice, too."""

    AUTO = auto()  # as the model likes
    NONE = auto()
    REQUIRED = auto()


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt as turns, which the model's own template renders.

    If the last turn is the assistant's, the answer continues it where it ends.
    """

    turns: Sequence[Turn]
    tools: Sequence[Tool] = ()
    choice: ToolChoice | str = ToolChoice.AUTO  # or the name of the function to call
    parallel_calls: bool = True  # else the answer ends with its first call
    variables: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))  # more, for the template
    thinking: bool | None = None  # whether to think first; None: as the template does
    thinking_budget: int | None = None  # tokens, after which a thought is ended; None: none

    @property
    def shown_tools(self) -> Sequence[Tool]:
        """The tools that the model is told of."""
        return () if self.choice is ToolChoice.NONE else self.tools

    @property
    def switches(self) -> Mapping[str, object]:
        """Whether to think, by all names under which templates know it; what the client says by one counts."""
        return {name: self.variables.get(name, self.thinking) for name in SWITCHES}

    @property
    def may_think(self) -> bool:
        """Whether thoughts are not turned off."""
        return not any(value is False for value in self.switches.values())

    @property
    def characters(self) -> int:
        """About how much there is to encode."""
        return sum(sum(map(len, _texts(turn))) for turn in self.turns)


def check_conversation(conversation: Conversation) -> None:
    """Raises InvalidRequest naming the first field at fault."""
    for field_name, problem in _faults(conversation):
        raise InvalidRequest(field_name, problem)


def check_counts(turns: int, calls: int, tools: int) -> None:
    """Raises InvalidRequest for so many turns, calls and tools, before anything is made of them."""
    for field_name, problem in _count_faults(turns, calls, tools):
        raise InvalidRequest(field_name, problem)


def _faults(conversation: Conversation) -> Iterator[tuple[str, str]]:
    turns, tools = conversation.turns, conversation.tools
    yield from _count_faults(len(turns), sum(len(turn.calls) for turn in turns), len(tools))
    yield from _turn_faults(turns)
    yield from _tool_faults(tools)
    yield from _choice_faults(conversation)
    yield from _variable_faults(conversation.variables)
    if conversation.thinking_budget is not None and conversation.thinking_budget < 0:
        yield "thinking_budget", f"is {conversation.thinking_budget}; expected 0 or more tokens"


def _count_faults(turns: int, calls: int, tools: int) -> Iterator[tuple[str, str]]:
    if turns > TURNS:
        yield "messages", f"are {turns}; at most {TURNS} are allowed"
    if calls > CALLS:
        yield "messages", f"make {calls} calls; at most {CALLS} are allowed"
    if tools > TOOLS:
        yield "tools", f"are {tools}; at most {TOOLS} are allowed"


def _turn_faults(turns: Sequence[Turn]) -> Iterator[tuple[str, str]]:
    if not turns:
        yield "messages", "is empty; expected at least one message"
    for index, turn in enumerate(turns):
        where = f"messages[{index}]"
        if not turn.role:
            yield f"{where}.role", "is empty; expected system, user, assistant or tool"
        if turn.calls and turn.role != "assistant":
            yield f"{where}.tool_calls", f"stand in a turn of role {turn.role!r}; only the assistant calls tools"
        for number, call in enumerate(turn.calls):
            if not NAME.fullmatch(call.name):
                yield f"{where}.tool_calls[{number}].name", f"is {call.name!r:.80}; {_NAME_EXPECTED}"
        for identity in (turn.call_id, *(call.id for call in turn.calls)):
            if len(identity) > ID_CHARACTERS:
                yield where, f"has the id of a call of {len(identity)} characters; at most {ID_CHARACTERS} are allowed"
    size = sum(byte_length(text) for turn in turns for text in _texts(turn))
    if size > INPUT_BYTES:  # not by the context: a template may leave out much of what was said before
        yield "messages", f"they take {size} bytes; at most {INPUT_BYTES} are allowed"
    if turns[-1].role == "assistant" and turns[-1].calls:
        yield f"messages[{len(turns) - 1}]", "calls tools; expected their results, as turns of role tool, after it"


def _tool_faults(tools: Sequence[Tool]) -> Iterator[tuple[str, str]]:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not NAME.fullmatch(tool.name):
            yield f"{where}.name", f"is {tool.name!r:.80}; {_NAME_EXPECTED}"
        if tool.name in names:
            yield f"{where}.name", f"is {tool.name!r}, as that of another tool; expected names that differ"
        names.add(tool.name)
        yield from _size_faults(f"{where}.description", tool.description, SCHEMA_BYTES)
        yield from _data_faults(f"{where}.parameters", tool.parameters, SCHEMA_BYTES, SCHEMA_DEPTH)


def _choice_faults(conversation: Conversation) -> Iterator[tuple[str, str]]:
    choice, names = conversation.choice, [tool.name for tool in conversation.tools]
    if choice is ToolChoice.REQUIRED and not names:
        yield "tool_choice", "requires a call; expected tools to call"
    if isinstance(choice, str) and choice not in names:
        known = ", ".join(names[:8]) or "none"
        yield "tool_choice", f"names the function {choice!r:.80}; expected one of tools: {known}"


def _variable_faults(variables: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name in variables:
        if name in OWN_VARIABLES:
            yield f"template_variables.{name}", "is given by the service itself; leave it out"
        if not name.isidentifier():
            yield "template_variables", f"has the name {name!r:.80}; expected a letter, then letters, digits and _"
    yield from _data_faults("template_variables", variables, VARIABLES_BYTES, VARIABLES_DEPTH, VARIABLES_NODES)


def _data_faults(
    where: str, data: object, most_bytes: int, most_depth: int, most_nodes: int | None = None
) -> Iterator[tuple[str, str]]:
    """What is wrong with plain data; its depth is looked at first, as all that goes through it recurses."""
    depth, nodes = measure(data, most_depth)
    if depth > most_depth:
        yield where, f"is nested more than {most_depth} deep; at most {most_depth} levels are allowed"
    elif most_nodes is not None and nodes > most_nodes:
        yield where, f"holds {nodes} values; at most {most_nodes} are allowed"
    else:
        try:
            text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=_plain)
        except (TypeError, ValueError) as error:
            yield where, f"is no JSON: {error}"
        else:
            yield from _size_faults(where, text, most_bytes)


def _size_faults(where: str, text: str, most: int) -> Iterator[tuple[str, str]]:
    if (size := byte_length(text)) > most:
        yield where, f"takes {size} bytes; at most {most} are allowed"


def arguments_of(call: ToolCall) -> object:
    """A call's arguments as data; their text where that is no object of JSON, as models break off."""
    text = call.arguments.strip() or "{}"  # nothing, as many clients write for no arguments
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return call.arguments
    depth, _ = measure(arguments, SCHEMA_DEPTH)
    return arguments if isinstance(arguments, dict) and depth <= SCHEMA_DEPTH else call.arguments


def measure(data: object, most_depth: int) -> tuple[int, int]:
    """How deep mappings and lists are nested, at most one more than `most_depth`, and how many values they hold."""
    depth, nodes, level = 0, 1, [data]
    while depth <= most_depth and (level := [value for value in level if isinstance(value, Mapping | list | tuple)]):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, Mapping) else outer)]
        nodes += len(level)
        depth += 1
    return depth, nodes


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is none")


def _texts(turn: Turn) -> Iterator[str]:
    yield from (turn.role, turn.content, turn.reasoning, turn.call_id, turn.name)
    for call in turn.calls:
        yield from (call.id, call.name, call.arguments)
