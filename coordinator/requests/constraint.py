"""What the text of an answer may be: a grammar as plain data, and what guides the draws of one answer by it.

Text is what numoe's tokens spell; control tokens spell nothing, so no grammar can ask for one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from numoe.protos.errors import InvalidRequest

GRAMMAR_BYTES = 1 << 16
GRAMMAR_DEPTH = 64
FIELD = "guided"  # of a request, in which faults of a grammar lie

_OPENING, _CLOSING = "([{", ")]}"
# As Python's json.dumps writes, which templates do and models have learned.
_PYTHONIC = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


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


class Guide(Protocol):
    """Follows one answer, token by token, and says what may come next; by any thread."""

    def allowed(self) -> NDArray[np.uint32]:
        """[V / 32, rounded up] a bit for each token that may be drawn next; none where it cannot be told."""

    def take(self, token_id: int) -> None:
        """It was drawn, and is no end token."""

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


def tool_calls(tools: Mapping[str, Mapping[str, object]], *, several: bool) -> Constraint:
    """At least one call of a tool in the format of Hermes and Qwen3; `tools`: names with schemas of the arguments.

    A call is `<tool_call>`, a line with the object of its name and its arguments, `</tool_call>`; a line's end is
    between two. Each schema stands by itself, so that its references mean what they mean in it. Raises InvalidRequest.
    """
    if not tools:
        raise InvalidRequest("tools", "are none; expected at least one that may be called")
    lines = ["start: call" + ' ("\\n" call)*' * several, f"call: {' | '.join(f'call_{n}' for n in range(len(tools)))}"]
    for number, (name, schema) in enumerate(tools.items()):
        opening = json.dumps(f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": ')
        lines.append(f'call_{number}: {opening} arguments_{number} "}}\\n</tool_call>"')
        lines.append(f"arguments_{number}: %json {json.dumps({**schema, 'x-guidance': _PYTHONIC})}")
    return Constraint(Grammar.LARK, "\n".join(lines))


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
