"""Reads the tokenizer's keys of a GGUF file, one by one, and refuses values that no tokenizer can have."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from numoe.model.text.token_types import TokenType
from numoe.protos.errors import ModelFileError

PREFIX = "tokenizer.ggml."
DAMAGED = "the file is damaged or badly converted, fetch another"

NO_ID = 2**32 - 1  # with -1, what files in use write for "there is none"


def fail(reason: str, message: str) -> NoReturn:
    """Raise ModelFileError."""
    raise ModelFileError(reason, message)


def read_text(metadata: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """The text of a key; without a default it must be there."""
    value = metadata.get(PREFIX + name, default)
    if value is None:
        _fail_missing(name)
    return _decode(value, PREFIX + name)


def read_flag(metadata: Mapping[str, Any], name: str) -> bool | None:
    """What a key says, None if it is missing."""
    value = metadata.get(PREFIX + name)
    if value is None:
        return None
    if not isinstance(value, bool | np.bool_):
        fail("tokenizer-value-type", f"{PREFIX}{name} is {value!r:.40}, expected true or false; {DAMAGED}")
    return bool(value)


def read_strings(metadata: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The texts of a key."""
    return tuple(
        item if type(item) is str else _decode(item, f"{PREFIX}{name}[{index}]")
        for index, item in enumerate(_items(metadata, name))
    )


def read_types(metadata: Mapping[str, Any], count: int) -> tuple[TokenType, ...] | None:
    """The type of each of so many tokens; None: the file gives none."""
    if PREFIX + "token_type" not in metadata:
        return None
    known: dict[object, TokenType] = {token_type.value: token_type for token_type in TokenType}
    known[0] = TokenType.UNUSED  # "undefined": no text, never matched
    types = []
    for index, item in enumerate(_items(metadata, "token_type")):
        if not isinstance(item, numbers.Integral) or item not in known:
            fail("token-type-unknown", f"{PREFIX}token_type[{index}] is {item!r:.40}, expected 1 to 6; {DAMAGED}")
        types.append(known[item])
    if len(types) != count:
        fail("token-types-length", f"there are {count} tokens, but {len(types)} token types; {DAMAGED}")
    return tuple(types)


def read_scores(metadata: Mapping[str, Any], count: int) -> tuple[float, ...]:
    """The score of each of so many tokens, as float32 holds it."""
    scores = []
    for index, item in enumerate(_items(metadata, "scores")):
        if isinstance(item, bool | np.bool_) or not isinstance(item, numbers.Real) or item != item:
            fail("token-score", f"{PREFIX}scores[{index}] is {item!r:.40}, expected a number; {DAMAGED}")
        scores.append(float(item))
    if len(scores) != count:
        fail("token-scores-length", f"there are {count} tokens, but {len(scores)} scores; {DAMAGED}")
    return tuple(scores)


def read_token_ids(metadata: Mapping[str, Any], name: str, count: int) -> tuple[int, ...]:
    """The ids that a key holds: one, a list of them, or none where it is missing or says so."""
    key = f"{PREFIX}{name}_token_id"
    value = metadata.get(key, ())
    found = []
    for item in value if isinstance(value, np.ndarray | list | tuple) else (value,):
        if isinstance(item, bool | np.bool_) or not isinstance(item, numbers.Integral):
            fail("tokenizer-value-type", f"{key} is a {type(item).__name__}, expected a token id; {DAMAGED}")
        token_id = int(item)
        if token_id in (-1, NO_ID):
            continue
        if not 0 <= token_id < count:
            fail("token-id-range", f"{key} is {token_id}, expected 0 to {count - 1}; {DAMAGED}")
        found.append(token_id)
    return tuple(found)


def _fail_missing(name: str) -> NoReturn:
    fail("tokenizer-key-missing", f"{PREFIX}{name} is missing: the file holds no tokenizer, convert it again")


def _decode(value: object, where: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            fail("value-not-utf8", f"{where} holds {value[:40]!r}, which is not UTF-8; {DAMAGED}")
    if not isinstance(value, str):
        fail("tokenizer-value-type", f"{where} holds a {type(value).__name__}, expected a text; {DAMAGED}")
    return value


def _items(metadata: Mapping[str, Any], name: str) -> Iterable[Any]:
    values = metadata.get(PREFIX + name)
    if values is None:
        _fail_missing(name)
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        fail("tokenizer-value-type", f"{PREFIX}{name} is a {type(values).__name__}, expected an array; {DAMAGED}")
    return values
