"""Calls that are written as an object of JSON with a name and arguments: Hermes, Qwen3, Llama 3, Mistral and others.

Where the name comes first, as all templates ask for, arguments are passed on while they come. Else the whole object is
held back until its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from numoe.model.chat.json_values import End, Place, follow, refuse_constant
from numoe.model.chat.parts import AnswerPart, CallArguments, CallBegins
from numoe.model.chat.stages import HELD_CHARACTERS, NAME_CHARACTERS, Closing, Reading, Stage, Step, broken

_BLANKS = re.compile(r"\s*")
_LIST = re.compile(r"\s*(?:\[\s*)?")
_FIRST_KEY = re.compile(r'\{\s*"([^"]*)"')
_KEYS = ("name", "arguments", "parameters", "type", "function", "id")
_HEAD = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?'
    rf'"name"\s*:\s*"([^"\\]{{1,{NAME_CHARACTERS}}})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)'
)


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """A format of such calls."""

    opening: str
    closing: str = ""
    listed: bool = False  # whether calls stand in one list
    bare: bool = False  # whether an answer may be a call without the opening; of a function that there is
    separator: str = ""  # between calls of which only the first has an opening
    arguments: str = "arguments"  # what models call them; both this and "parameters" are read

    @property
    def openings(self) -> Sequence[str]:
        """Texts with which calls begin."""
        return (self.opening,)

    @property
    def markers(self) -> Sequence[str]:
        """Texts that may be control tokens."""
        return tuple(text for text in (self.opening, self.closing) if text)

    def begin(self, before: str, opening: str, calls: int) -> Stage:
        """What reads a call behind its opening."""
        return _Head(self, before + opening, calls, any_name=bool(opening))


class _Call(NamedTuple):
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class _Head:
    """A call, as far as its name is not known."""

    form: JsonCalls
    before: str  # what was read of it
    calls: int
    any_name: bool  # whether it is a call whatever it calls
    first: bool = True  # of a list

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Find the name."""
        held = text[:HELD_CHARACTERS]
        lead = (_LIST if self.form.listed and self.first else _BLANKS).match(held)
        assert lead is not None
        body = held[lead.end() :]
        key = _FIRST_KEY.match(body)
        if (body and not body.startswith("{")) or (key and key[1] not in _KEYS):
            return broken(self.before, text, self.calls)
        if head := _HEAD.match(body):
            if not self._may_call(head[1], how):
                return broken(self.before, text, self.calls)
            begins = CallBegins(self.calls, how.new_id(), head[1])
            return Step((begins,), text[lead.end() + head.end() :], _Arguments(self.form, self.calls))
        end = follow(body, Place())
        if isinstance(end, End):
            call = _parse(body[: end.at])
            if call is None or not self._may_call(call.name, how):
                return broken(self.before, text, self.calls)
            begins = CallBegins(self.calls, how.new_id(), call.name)
            parts: Sequence[AnswerPart] = (begins, CallArguments(self.calls, call.arguments))
            return Step(parts, text[lead.end() + end.at :], _Rest(self.form, self.calls + 1, closed=True))
        if ends or len(text) > HELD_CHARACTERS:
            return broken(self.before, text, self.calls)
        return Step((), text)

    def _may_call(self, name: str, how: Reading) -> bool:
        return self.any_name or name in how.tools


@dataclass(frozen=True, slots=True)
class _Arguments:
    """The object that is a call's arguments."""

    form: JsonCalls
    calls: int
    place: Place = Place()  # noqa: RUF009  # frozen

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Pass arguments on."""
        if not text:
            return Step((), "")
        end = follow(text, self.place)
        if isinstance(end, Place):
            return Step((CallArguments(self.calls, text),), "", replace(self, place=end))
        parts = (CallArguments(self.calls, text[: end.at]),) if end.at else ()
        return Step(parts, text[end.at :], _Rest(self.form, self.calls + 1))


@dataclass(frozen=True, slots=True)
class _Rest:
    """What follows the arguments of a call."""

    form: JsonCalls
    calls: int
    closed: bool = False  # whether the call's object is; models forget it

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Find out what follows."""
        body = text.lstrip()
        if not body:
            return Step((), "")
        if body[0] == "}" and not self.closed:
            return Step((), body[1:], replace(self, closed=True))
        if self.form.separator == body[0]:
            head = _Head(self.form, body[0], self.calls, any_name=self.form.listed, first=False)
            return Step((), body[1:], head)
        rest = body[1:] if self.form.listed and body[0] == "]" else body
        return Step((), rest, Closing(self.form.closing, self.calls))


def _parse(text: str) -> _Call | None:
    """A call whose object is complete; None: it is none."""
    try:
        data = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return None
    function = data.get("function", data) if isinstance(data, Mapping) else None
    if not isinstance(function, Mapping):
        return None
    name, arguments = function.get("name"), function.get("arguments", function.get("parameters")) or {}
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_CHARACTERS:
        return None
    return _Call(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
