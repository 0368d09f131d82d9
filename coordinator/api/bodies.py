"""Reads a request's body in JSON: what is missing, of a wrong type or no JSON is refused by the path of the field.

What clients of other services give a field, and ours does not take, is turned into what they mean by it.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from numoe.coordinator.requests.request import TEMPERATURE_RANGE
from numoe.protos.errors import InvalidRequest

_LEAST_TOP_P = 1e-7  # less than the likeliest of all tokens has, in a vocabulary of any size

Body = TypeVar("Body")

_DECODERS: dict[type[Any], msgspec.json.Decoder[Any]] = {}  # made once for each kind, in a millisecond
_PLACED = re.compile(r"(?P<problem>.*) - at `(?:key` in `)?\$\.?(?P<path>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


def read_body(body: bytes, kind: type[Body]) -> Body:
    """The body as a msgspec.Struct; fields that it does not know are ignored. Raises InvalidRequest."""
    try:
        return _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("body", f"is no JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("body", "is nested too deep") from error


def meant_sampling(given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a draw as they are meant: hardly any temperature as the least, no top_p as the likeliest token."""
    meant = dict(given)
    if 0.0 < meant.get("temperature", 0.0) < TEMPERATURE_RANGE[0]:
        meant["temperature"] = TEMPERATURE_RANGE[0]
    if meant.get("top_p") == 0.0:
        meant["top_p"] = _LEAST_TOP_P
    return meant


def schema_text(schema: msgspec.Raw) -> str:
    """The JSON of a schema, which may have been given as a string that holds it; "": there is none."""
    try:
        text = bytes(schema).decode()
        text = msgspec.json.decode(text, type=str) if text.startswith('"') else text
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("body", f"is no JSON: {error}") from error
    return "" if text == "null" else text


def _decoder(kind: type[Body]) -> msgspec.json.Decoder[Body]:
    if kind not in _DECODERS:
        _DECODERS[kind] = msgspec.json.Decoder(kind)
    return _DECODERS[kind]


def _misfit(said: str) -> InvalidRequest:
    """msgspec names a place as `$.messages[...].role`, and of a missing field the object that lacks it."""
    placed = _PLACED.fullmatch(said)
    problem, path = (placed["problem"], placed["path"]) if placed else (said, "")
    if missing := _MISSING.fullmatch(problem):
        return InvalidRequest(".".join(filter(None, (path, missing["name"]))), "is missing")
    return InvalidRequest(path or "body", problem[:1].lower() + problem[1:])
