"""Reads the vocabulary of a GGUF file and checks it: texts, types, merges and the ids of special tokens.

*Guarantees*: token ids 0 .. V-1 with one type each; texts differ; both parts and the result of every merge are tokens;
every special id exists; control tokens have that type, whatever the file says (control_tokens.py). A file that breaks
one of these is refused with a ModelFileError that names the fault.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from numoe.model.text.control_tokens import (
    END_TEXTS,
    MOST_SPECIAL,
    SPECIAL_CHARACTERS,
    find_mistyped,
    is_special,
)
from numoe.model.text.pretokenizers import Pretokenizer, find_pretokenizer
from numoe.model.text.token_types import TokenType
from numoe.protos.errors import ModelFileError, UnsupportedModel

PREFIX = "tokenizer.ggml."
DAMAGED = "the file is damaged or badly converted, fetch another"

NO_ID = 2**32 - 1  # with -1, what files in use write for "there is none"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level byte-pair vocabulary."""

    texts: tuple[str, ...]  # [V] in the printable spelling of bytes for normal tokens, as they are for the others
    types: tuple[TokenType, ...]  # [V]
    merges: tuple[tuple[str, str], ...]  # first is best
    pretokenizer: Pretokenizer
    bos_id: int | None
    eos_id: int | None  # the one that the file names first, for the chat template
    end_ids: frozenset[int]
    add_bos: bool
    mistyped: tuple[str, ...] = ()  # texts of control tokens that have another type in the file


def read_vocabulary(metadata: Mapping[str, Any], written: str = "") -> Vocabulary:
    """Read the tokenizer's keys of a file. Raises ModelFileError and UnsupportedModel.

    `written` is what the chat template writes around a greeting: the markers of turns in it are control tokens.
    """
    model = _text(metadata, "model")
    if model != "gpt2":
        raise UnsupportedModel(f"tokenizer.ggml.model is {model!r}, this version knows gpt2 (byte-level BPE) only")
    pretokenizer = find_pretokenizer(_text(metadata, "pre", ""))
    texts = _strings(metadata, "tokens")
    if not texts:
        _fail("tokens-empty", f"{PREFIX}tokens is empty; {DAMAGED}")
    types = list(_types(metadata, len(texts)))
    ids = _ids(texts)
    merges = _merges(metadata, ids)
    bos_ids, eos_ids = (_token_ids(metadata, name, len(texts)) for name in ("bos", "eos"))
    if len(bos_ids) > 1:
        _fail("tokenizer-value-type", f"{PREFIX}bos_token_id holds {len(bos_ids)} ids, expected one; {DAMAGED}")
    ends = {*eos_ids, *_token_ids(metadata, "eot", len(texts)), *_token_ids(metadata, "eom", len(texts))}
    merged = {left + right for left, right in merges}
    mistyped = tuple(find_mistyped(texts, types, merged, ends.union(bos_ids), written))
    for token_id in mistyped:
        types[token_id] = TokenType.CONTROL
    _check_special(texts, types)
    known = {ids[text] for text in END_TEXTS & ids.keys()}
    bos_id = next(iter(bos_ids), None)
    return Vocabulary(
        texts=texts,
        types=tuple(types),
        merges=merges,
        pretokenizer=pretokenizer,
        bos_id=bos_id,
        eos_id=next(iter(eos_ids), None),
        end_ids=frozenset(ends | {token_id for token_id in known if types[token_id] is TokenType.CONTROL}),
        add_bos=_add_bos(metadata, pretokenizer.add_bos, bos_id),
        mistyped=tuple(texts[token_id] for token_id in mistyped),
    )


def _fail(reason: str, message: str) -> NoReturn:
    raise ModelFileError(reason, message)


def _text(metadata: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = metadata.get(PREFIX + name, default)
    if value is None:
        _fail("tokenizer-key-missing", f"{PREFIX}{name} is missing: the file holds no tokenizer, convert it again")
    return _decode(value, PREFIX + name)


def _decode(value: object, where: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            _fail("value-not-utf8", f"{where} holds {value[:40]!r}, which is not UTF-8; {DAMAGED}")
    if not isinstance(value, str):
        _fail("tokenizer-value-type", f"{where} holds a {type(value).__name__}, expected a text; {DAMAGED}")
    return value


def _items(metadata: Mapping[str, Any], name: str) -> Iterable[Any]:
    values = metadata.get(PREFIX + name)
    if values is None:
        _fail("tokenizer-key-missing", f"{PREFIX}{name} is missing: the file holds no tokenizer, convert it again")
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        _fail("tokenizer-value-type", f"{PREFIX}{name} is a {type(values).__name__}, expected an array; {DAMAGED}")
    return values


def _strings(metadata: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(
        item if type(item) is str else _decode(item, f"{PREFIX}{name}[{index}]")
        for index, item in enumerate(_items(metadata, name))
    )


def _types(metadata: Mapping[str, Any], count: int) -> tuple[TokenType, ...]:
    if PREFIX + "token_type" not in metadata:
        return (TokenType.NORMAL,) * count
    known: dict[object, TokenType] = {token_type.value: token_type for token_type in TokenType}
    known[0] = TokenType.UNUSED  # "undefined": no text, never matched
    types = []
    for index, item in enumerate(_items(metadata, "token_type")):
        if not isinstance(item, numbers.Integral) or item not in known:
            _fail("token-type-unknown", f"{PREFIX}token_type[{index}] is {item!r:.40}, expected 1 to 6; {DAMAGED}")
        types.append(known[item])
    if len(types) != count:
        _fail("token-types-length", f"there are {count} tokens, but {len(types)} token types; {DAMAGED}")
    return tuple(types)


def _ids(texts: tuple[str, ...]) -> dict[str, int]:
    """Token ids by text, without empty texts: any number of tokens may have none."""
    ids = {text: token_id for token_id, text in enumerate(texts) if text}
    if len(ids) + texts.count("") != len(texts):
        token_id = next(token_id for token_id, text in enumerate(texts) if text and ids[text] != token_id)
        text = texts[token_id]
        _fail("token-duplicate", f"tokens {token_id} and {ids[text]} are both {text!r:.60}; {DAMAGED}")
    return ids


def _token_ids(metadata: Mapping[str, Any], name: str, count: int) -> tuple[int, ...]:
    """The ids that a key holds: one, a list of them, or none where it is missing or says so."""
    key = f"{PREFIX}{name}_token_id"
    value = metadata.get(key, ())
    found = []
    for item in value if isinstance(value, np.ndarray | list | tuple) else (value,):
        if isinstance(item, bool | np.bool_) or not isinstance(item, numbers.Integral):
            _fail("tokenizer-value-type", f"{key} is a {type(item).__name__}, expected a token id; {DAMAGED}")
        token_id = int(item)
        if token_id in (-1, NO_ID):
            continue
        if not 0 <= token_id < count:
            _fail("token-id-range", f"{key} is {token_id}, expected 0 to {count - 1}; {DAMAGED}")
        found.append(token_id)
    return tuple(found)


def _check_special(texts: Sequence[str], types: Sequence[TokenType]) -> None:
    """Refuse more tokens to search text for than any vocabulary has."""
    sizes = [len(text) for text, token_type in zip(texts, types, strict=True) if is_special(token_type)]
    if len(sizes) > MOST_SPECIAL or sum(sizes) > SPECIAL_CHARACTERS:
        found = f"{len(sizes)} special tokens of {sum(sizes)} characters"
        expected = f"at most {MOST_SPECIAL} of {SPECIAL_CHARACTERS} are allowed"
        _fail("special-tokens", f"{PREFIX}token_type: there are {found}, {expected}; {DAMAGED}")


def _add_bos(metadata: Mapping[str, Any], default: bool, bos_id: int | None) -> bool:
    value = metadata.get(PREFIX + "add_bos_token")
    if value is None:
        return default and bos_id is not None
    if not isinstance(value, bool | np.bool_):
        _fail("tokenizer-value-type", f"{PREFIX}add_bos_token is {value!r:.40}, expected true or false; {DAMAGED}")
    if value and bos_id is None:
        _fail("token-id-missing", f"{PREFIX}add_bos_token is true, but there is no {PREFIX}bos_token_id; {DAMAGED}")
    return bool(value)


def _merges(metadata: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    """Pairs of texts that are merged, the first first; of equal pairs the first counts, as in llama.cpp."""
    merges: dict[tuple[str, str], None] = {}
    for index, merge in enumerate(_strings(metadata, "merges")):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            _fail("merge-malformed", f"{PREFIX}merges[{index}] is {merge!r:.60}, expected two texts; {DAMAGED}")
        if left not in ids or right not in ids or left + right not in ids:
            missing = next(text for text in (left, right, left + right) if text not in ids)
            _fail("merge-unknown-token", f"{PREFIX}merges[{index}] needs the token {missing!r:.60}; {DAMAGED}")
        merges[left, right] = None
    return tuple(merges)
