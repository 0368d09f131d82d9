"""Follows JSON while it comes, as far as to know where a value ends: strings, and how deep brackets are nested.

What is wrong inside a value is not looked at: whoever gets it parses it. But a "<" outside of a string is never JSON,
and is most likely the marker behind a value that was left open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_OUTSIDE = re.compile(r'["{}\[\]<]')
_INSIDE = re.compile(r'["\\]')


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the text of a value; the first is before its opening bracket."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False  # whether the next character is the second one of an escape


@dataclass(frozen=True, slots=True)
class End:
    """Where in a text a value ends."""

    at: int
    closed: bool  # else it was left open


def follow(text: str, place: Place) -> Place | End:
    """Follow a value that goes on at `place` with this text."""
    depth, in_string, at = place.depth, place.in_string, int(place.escaped and bool(text))
    if place.escaped and not text:
        return place
    while match := (_INSIDE if in_string else _OUTSIDE).search(text, at):
        at = match.end()
        match match[0]:
            case '"':
                in_string = not in_string
            case "\\":
                if at == len(text):
                    return Place(depth, in_string, escaped=True)
                at += 1
            case "{" | "[":
                depth += 1
            case "<":
                return End(at - 1, closed=False)
            case _:
                depth -= 1
                if depth <= 0:
                    return End(at, closed=True)
    return Place(depth, in_string)


def refuse_constant(name: str) -> None:
    """Have json.loads refuse what Python alone takes for JSON."""
    raise ValueError(f"{name} is no JSON")
