"""What the text of an answer may be: a grammar as plain data, and what guides the draws of one answer by it.

Text is what numoe's tokens spell; control tokens spell nothing. A grammar gets none but those that the service itself
names beside it, as calls of tools begin with one in some formats: a client could write turns with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from numoe.coordinator.requests.token_masks import TokenMask
from numoe.protos.errors import InvalidRequest

GRAMMAR_BYTES = 1 << 16
GRAMMAR_DEPTH = 64
FIELD = "guided"  # of a request, in which faults of a grammar lie

_HINTS = "x-guidance"  # a schema's key for what llguidance is told beside
# One blank, or a line's end and what indents the next: enough for any layout, and a model cannot go on with blanks.
_BLANKS = {"whitespace_pattern": r" |\n[ \t]{0,64}"}
_OBJECT = {"type": "object"}  # that arguments are, whatever a schema leaves unsaid
_OPENING, _CLOSING = "([{", ")]}"
# As Python's json.dumps writes, which templates do and models have learned; what of a schema no grammar can hold is
# left to whoever runs the tool.
_PYTHONIC = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}


class Grammar(StrEnum):
    """The languages in which a constraint is written."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark_grammar"


@dataclass(frozen=True, slots=True)
class Constraint:
    """An answer's whole text must be one of those that the grammar describes."""

    grammar: Grammar
    text: str
    control: frozenset[int] = frozenset()  # control tokens that it may ask for, as <[id]>


Piece = str | int  # of an answer: text, or the id of a control token


@dataclass(frozen=True, slots=True)
class CallLayout:
    """What stands around and between calls of tools that are objects of JSON with a name and arguments."""

    before: tuple[Piece, ...]
    between: tuple[Piece, ...]
    after: tuple[Piece, ...]
    arguments: str = "arguments"  # what the object calls them


class Guide(Protocol):
    """Follows one answer, token by token, and says what may come next; by any thread."""

    def allowed(self) -> TokenMask:
        """The tokens that may be drawn next; none where it cannot be told."""

    def take(self, token_id: int) -> None:
        """It was drawn, and is no end token."""

    def copy(self) -> Guide:
        """One that goes on from here, for another answer."""

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""

    @property
    def problem(self) -> str:
        """Why it cannot be told what may be drawn; "": it can."""


def any_json_object() -> Constraint:
    """Any JSON object."""
    return Constraint(Grammar.JSON_SCHEMA, '{"type": "object"}')


def one_of(choices: Sequence[str]) -> Constraint:
    """One of some texts, as it stands. Raises InvalidRequest."""
    if not choices or not all(choices):
        raise InvalidRequest(f"{FIELD}.choice", "expected at least one text, and none that is empty")
    return Constraint(Grammar.LARK, f"start: {' | '.join(map(json.dumps, choices))}")


def schema_of(text: str, *, strict: bool) -> Constraint:
    """JSON of a schema; not `strict`: what of it no grammar can hold is left out."""
    try:
        schema = None if strict or len(text) > GRAMMAR_BYTES else json.loads(text)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):  # which is told where the constraint is checked
        return Constraint(Grammar.JSON_SCHEMA, text)
    return Constraint(Grammar.JSON_SCHEMA, json.dumps({**schema, _HINTS: {"lenient": True}}, ensure_ascii=False))


def schema_with_blanks(text: str) -> str:
    """A checked schema that says which blanks its texts may have, where it does not say so itself."""
    schema = json.loads(text)
    if not isinstance(schema, dict):
        return text
    hints = schema.get(_HINTS)
    return json.dumps({**schema, _HINTS: _BLANKS | (hints if isinstance(hints, dict) else {})})


def tool_calls(
    tools: Mapping[str, Mapping[str, object]],
    layout: CallLayout,
    *,
    several: bool,
    otherwise: Constraint | None = None,
) -> Constraint:
    """At least one call of a tool; `tools`: names with schemas of the arguments.

    `otherwise`: JSON of a schema that the answer may be instead. Each schema stands by itself, so that its references
    mean what they mean in it. Raises InvalidRequest.
    """
    if not tools:
        raise InvalidRequest("tools", "are none; expected at least one that may be called")
    before, between, after = (_lark(pieces) for pieces in (layout.before, layout.between, layout.after))
    lines = [
        "start: calls" + " | otherwise" * (otherwise is not None),
        f"calls: {before} call" + f" ({between} call)*" * several + f" {after}",
        f"call: {' | '.join(f'call_{n}' for n in range(len(tools)))}",
    ]
    for number, (name, schema) in enumerate(tools.items()):
        opening = f'{{"name": {json.dumps(name, ensure_ascii=False)}, {json.dumps(layout.arguments)}: '
        lines.append(f'call_{number}: {json.dumps(opening)} arguments_{number} "}}"')
        lines.append(f"arguments_{number}: %json {json.dumps({**_OBJECT, **schema, _HINTS: _PYTHONIC})}")
    if otherwise is not None:
        lines.append(f"otherwise: %json {schema_with_blanks(otherwise.text)}")
    pieces = (*layout.before, *layout.between, *layout.after)
    return Constraint(Grammar.LARK, "\n".join(lines), frozenset(piece for piece in pieces if isinstance(piece, int)))


def _lark(pieces: Sequence[Piece]) -> str:
    return " ".join(f"<[{piece}]>" if isinstance(piece, int) else json.dumps(piece) for piece in pieces)


def check_constraint(constraint: Constraint) -> None:
    """Raise InvalidRequest for a grammar that is too large, nested too deeply, or no JSON where it should be."""
    for problem in _problems(constraint):
        raise InvalidRequest(f"{FIELD}.{constraint.grammar}", problem)


def _problems(constraint: Constraint) -> Iterator[str]:
    size = len(constraint.text.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= GRAMMAR_BYTES:
        yield f"takes {size} bytes; expected 1 to {GRAMMAR_BYTES}"
    if (depth := _depth(constraint.text)) > GRAMMAR_DEPTH:
        yield f"is nested {depth} deep; at most {GRAMMAR_DEPTH} are allowed"
    if constraint.grammar is Grammar.JSON_SCHEMA:
        try:
            schema = json.loads(constraint.text)
        except ValueError as error:
            yield f"is no JSON: {error}"
        else:
            if not isinstance(schema, dict | bool):
                yield f"is a JSON {type(schema).__name__}; expected an object"


def _depth(text: str) -> int:
    """How deep brackets are nested, those in quotes and behind a backslash left out."""
    depth = deepest = 0
    quoted = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted and character in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif not quoted and character in _CLOSING:
            depth = max(0, depth - 1)
    return deepest
