"""Calls that are written with tags, as Qwen3-Coder writes them:

    <tool_call>
    <function=weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

The schema says which values are text, which is passed on while it comes, and which are JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from numoe.model.chat.json_values import refuse_constant
from numoe.model.chat.parts import AnswerPart, CallArguments, CallBegins
from numoe.model.chat.stages import (
    HELD_CHARACTERS,
    MOST_BLANKS,
    NAME_CHARACTERS,
    Closing,
    Reading,
    Stage,
    Step,
    broken,
    overlap,
)

OPENING, CLOSING = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
_NAME = re.compile(rf'([^<>"\s]{{0,{NAME_CHARACTERS}}})(>?)')
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
_LITERALS = {"True": "true", "False": "false", "None": "null"}  # as Python writes them


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """The format of such calls; models forget the outer tag, which then has to call a function that there is."""

    bare = False
    openings: Sequence[str] = (OPENING, FUNCTION)
    markers: Sequence[str] = (OPENING, CLOSING)

    def begin(self, before: str, opening: str, calls: int) -> Stage:
        """What reads a call behind its opening."""
        if opening == FUNCTION:
            return _Name(before + opening, calls, any_name=False)
        return _Head(before + opening, calls)


@dataclass(frozen=True, slots=True)
class _Head:
    """Between the outer tag and that of the function."""

    before: str
    calls: int

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Find the function's tag."""
        body = text.lstrip()
        blanks = text[: len(text) - len(body)]
        if len(blanks) <= MOST_BLANKS:
            if body.startswith(FUNCTION):
                before = self.before + blanks + FUNCTION
                return Step((), body.removeprefix(FUNCTION), _Name(before, self.calls, any_name=True))
            if FUNCTION.startswith(body) and not ends:
                return Step((), text)
        return broken(self.before, text, self.calls)


@dataclass(frozen=True, slots=True)
class _Name:
    """The function's name."""

    before: str
    calls: int
    any_name: bool

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Find the end of the name."""
        match = _NAME.match(text)
        assert match is not None
        name, end = match.groups()
        if name and end and (self.any_name or name in how.tools):
            parts = CallBegins(self.calls, how.new_id(), name), CallArguments(self.calls, "{")
            return Step(parts, text[match.end() :], _Parameters(self.calls, name))
        if end or match.end() < len(text) or len(name) == NAME_CHARACTERS or ends:
            return broken(self.before, text, self.calls)
        return Step((), text)


@dataclass(frozen=True, slots=True)
class _Parameters:
    """Between two parameters."""

    calls: int
    function: str
    count: int = 0  # of parameters before

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Find the next parameter, or the end."""
        body = text.lstrip()
        match = _NAME.match(body.removeprefix(PARAMETER)) if body.startswith(PARAMETER) else None
        if match and match[1] and match[2]:
            return self._begin(match[1], body[len(PARAMETER) + match.end() :], how)
        if any(tag.startswith(body) and tag != body for tag in (PARAMETER, FUNCTION_END, CLOSING)) or (
            match and not match[2] and match.end() == len(body) - len(PARAMETER) and len(match[1]) < NAME_CHARACTERS
        ):
            return Step((), "" if ends else body)
        parts = (CallArguments(self.calls, "}"),)
        return Step(parts, body.removeprefix(FUNCTION_END), Closing(CLOSING, self.calls + 1))

    def _begin(self, name: str, rest: str, how: Reading) -> Step:
        types = frozenset(_types(_schema(how, self.function, name)))
        key = f"{', ' if self.count else ''}{json.dumps(name, ensure_ascii=False)}: "
        following = replace(self, count=self.count + 1)
        if types == {"string"}:
            return Step((CallArguments(self.calls, f'{key}"'),), rest, _Text(following))
        return Step((CallArguments(self.calls, key),), rest, _Data(following, types))


@dataclass(frozen=True, slots=True)
class _Text:
    """A value that is text."""

    following: _Parameters
    begun: bool = False

    @property
    def calls(self) -> int:
        """How many calls are complete."""
        return self.following.calls

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Pass text on, without the line breaks that stand before and after it."""
        if not self.begun:
            return Step((), text.removeprefix("\n"), replace(self, begun=True) if text else None)
        value, found, rest = text.partition(PARAMETER_END)
        if found:
            return Step(self._part(_escaped(value.removesuffix("\n")) + '"'), rest, self.following)
        cut = len(text) if ends else len(text) - overlap(text, PARAMETER_END)
        if not ends and text[:cut].endswith("\n"):
            cut -= 1
        return Step(self._part(_escaped(text[:cut])), text[cut:])

    def _part(self, text: str) -> Sequence[AnswerPart]:
        return (CallArguments(self.calls, text),) if text else ()


@dataclass(frozen=True, slots=True)
class _Data:
    """A value that is JSON; held back, as it may turn out to be none. What is too long for that is text."""

    following: _Parameters
    types: frozenset[str]

    @property
    def calls(self) -> int:
        """How many calls are complete."""
        return self.following.calls

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Find the end of the value."""
        end = text.find(PARAMETER_END)
        if 0 <= end <= HELD_CHARACTERS:
            value = _as_json(text[:end].strip(), self.types)
            return Step((CallArguments(self.calls, value),), text[end + len(PARAMETER_END) :], self.following)
        if len(text) > HELD_CHARACTERS + len(PARAMETER_END):
            return Step((CallArguments(self.calls, '"'),), text, _Text(self.following))
        if ends and (value := text.strip()):
            return Step((CallArguments(self.calls, value),), "")
        return Step((), "" if ends else text)


def _schema(how: Reading, function: str, parameter: str) -> object:
    properties = how.tools.get(function, {}).get("properties")
    return properties.get(parameter) if isinstance(properties, Mapping) else None


def _types(schema: object) -> Iterator[str]:
    """The types that values of a schema may have; text where it says nothing."""
    if not isinstance(schema, Mapping):
        yield "string"
        return
    stated = schema.get("type")
    choices = [choice for key in ("anyOf", "oneOf", "allOf") for choice in _listed(schema.get(key))]
    if isinstance(stated, str):
        yield stated
    elif isinstance(stated, list | tuple):
        yield from map(str, stated)
    elif choices:
        for choice in choices:
            yield from _types(choice)
    else:
        yield "object" if "$ref" in schema else "string"


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _as_json(value: str, types: frozenset[str]) -> str:
    value = value if "string" in types else _LITERALS.get(value, value)
    try:
        data = json.loads(value, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return json.dumps(value, ensure_ascii=False)
    kind = _TYPES.get(type(data), "null")
    fits = kind in types or (kind == "integer" and "number" in types)
    return value if fits or "string" not in types else json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
