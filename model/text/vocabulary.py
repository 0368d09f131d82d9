"""Reads the vocabulary of a GGUF file and checks it: texts, types, how they are merged, the ids of special tokens.

*Guarantees*: token ids 0 .. V-1 with one type each; texts differ; both parts and the result of every merge are tokens,
or every token has a score; every special id exists; control tokens have that type, whatever the file says
(control_tokens.py). A file that breaks one of these is refused with a ModelFileError that names the fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numoe.model.text.control_tokens import (
    END_TEXTS,
    MARKER_BEGINNINGS,
    MARKER_CHARACTERS,
    MOST_SPECIAL,
    SPECIAL_CHARACTERS,
    find_mistyped,
    is_special,
)
from numoe.model.text.pretokenizers import Pretokenizer, find_pretokenizer
from numoe.model.text.token_types import BYTE_TEXTS, TokenType
from numoe.model.text.vocabulary_keys import (
    DAMAGED,
    PREFIX,
    fail,
    read_flag,
    read_scores,
    read_strings,
    read_text,
    read_token_ids,
    read_types,
)
from numoe.protos.errors import UnsupportedModel

MOST_CHARACTERS = (
    1024  # of a token; the library that merges by scores takes less than 8000 bytes, models in use have 93
)
# What llama.cpp takes in a file of scores that names none.
UNNAMED_IDS = {"bos": 1, "eos": 2, "unknown": 0}


@dataclass(frozen=True, slots=True)
class RankedPairs:
    """Byte-level BPE (tokenizer.ggml.model "gpt2"): words of a text are merged by a list of pairs."""

    merges: tuple[tuple[str, str], ...]  # first is best
    pretokenizer: Pretokenizer


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """SentencePiece's BPE (tokenizer.ggml.model "llama"): the whole text is merged, by the score of what comes out."""

    scores: tuple[float, ...]  # [V], highest is best
    space_prefix: bool  # whether a blank is put before text that stands first or after a special token
    unknown_id: int | None  # what a byte becomes for which there is no token


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens and how texts are made of them."""

    texts: tuple[str, ...]  # [V] normal ones in the spelling of their kind (spelling.py), the others as they are
    types: tuple[TokenType, ...]  # [V]
    merging: RankedPairs | ScoredTokens
    bos_id: int | None
    eos_id: int | None  # the one that the file names first, for the chat template
    end_ids: frozenset[int]
    add_bos: bool
    mistyped: tuple[str, ...] = ()  # texts of control tokens that have another type in the file


def read_vocabulary(metadata: Mapping[str, Any], written: str = "") -> Vocabulary:
    """Read the tokenizer's keys of a file. Raises ModelFileError and UnsupportedModel.

    `written` is what the chat template writes around a greeting: the markers of turns in it are control tokens.
    """
    model = read_text(metadata, "model")
    if model not in ("gpt2", "llama"):
        expected = "gpt2 (byte-level BPE) and llama (SentencePiece) only"
        raise UnsupportedModel(f"tokenizer.ggml.model is {model!r}, this version knows {expected}")
    scored = model == "llama"
    pretokenizer = Pretokenizer((), add_bos=True) if scored else find_pretokenizer(read_text(metadata, "pre", ""))
    texts = read_strings(metadata, "tokens")
    if not texts:
        fail("tokens-empty", f"{PREFIX}tokens is empty; {DAMAGED}")
    given_types = read_types(metadata, len(texts))
    types = list(given_types or _likely_types(texts, scored))
    ids = _ids(texts)
    merging: RankedPairs | ScoredTokens
    if scored:
        _check_pieces(texts, types)
        unknown_ids = _named_ids(metadata, "unknown", len(texts), scored)
        space_prefix = read_flag(metadata, "add_space_prefix") is not False
        merging = ScoredTokens(read_scores(metadata, len(texts)), space_prefix, next(iter(unknown_ids), None))
        merged = {text for text in texts if _may_be_merged(text, ids)}
    else:
        merging = RankedPairs(_merges(metadata, ids), pretokenizer)
        merged = {left + right for left, right in merging.merges}
    bos_ids, eos_ids = (_named_ids(metadata, name, len(texts), scored) for name in ("bos", "eos"))
    if len(bos_ids) > 1:
        fail("tokenizer-value-type", f"{PREFIX}bos_token_id holds {len(bos_ids)} ids, expected one; {DAMAGED}")
    ends = {*eos_ids, *(end for name in ("eot", "eom") for end in read_token_ids(metadata, name, len(texts)))}
    mistyped = tuple(find_mistyped(texts, types, merged, ends.union(bos_ids), written))
    for token_id in mistyped:
        types[token_id] = TokenType.CONTROL
    _check_special(texts, types)
    known = {ids[text] for text in END_TEXTS & ids.keys()}
    bos_id = next(iter(bos_ids), None)
    return Vocabulary(
        texts=texts,
        types=tuple(types),
        merging=merging,
        bos_id=bos_id,
        eos_id=next(iter(eos_ids), None),
        end_ids=frozenset(ends | {token_id for token_id in known if types[token_id] is TokenType.CONTROL}),
        add_bos=_add_bos(metadata, pretokenizer.add_bos, bos_id),
        mistyped=tuple(texts[token_id] for token_id in mistyped),
    )


def _likely_types(texts: Sequence[str], scored: bool) -> list[TokenType]:
    """The types of a file that gives none."""
    return [TokenType.BYTE if scored and text in BYTE_TEXTS else TokenType.NORMAL for text in texts]


def _ids(texts: tuple[str, ...]) -> dict[str, int]:
    """Token ids by text, without empty texts: any number of tokens may have none."""
    ids = {text: token_id for token_id, text in enumerate(texts) if text}
    if len(ids) + texts.count("") != len(texts):
        token_id = next(token_id for token_id, text in enumerate(texts) if text and ids[text] != token_id)
        text = texts[token_id]
        fail("token-duplicate", f"tokens {token_id} and {ids[text]} are both {text!r:.60}; {DAMAGED}")
    return ids


def _named_ids(metadata: Mapping[str, Any], name: str, count: int, scored: bool) -> tuple[int, ...]:
    found = read_token_ids(metadata, name, count)
    if found or not scored or UNNAMED_IDS[name] >= count:
        return found
    return (UNNAMED_IDS[name],)


def _check_pieces(texts: Sequence[str], types: Sequence[TokenType]) -> None:
    for token_id, (text, token_type) in enumerate(zip(texts, types, strict=True)):
        if token_type is TokenType.BYTE and text not in BYTE_TEXTS:
            fail("token-byte", f"token {token_id} is a byte called {text!r:.40}, expected <0x00> to <0xFF>; {DAMAGED}")
        if len(text) > MOST_CHARACTERS:
            expected = f"expected at most {MOST_CHARACTERS}"
            fail("token-length", f"token {token_id} has {len(text)} characters, {expected}; {DAMAGED}")


def _check_special(texts: Sequence[str], types: Sequence[TokenType]) -> None:
    """Refuse more tokens to search text for than any vocabulary has."""
    sizes = [len(text) for text, token_type in zip(texts, types, strict=True) if is_special(token_type)]
    if len(sizes) > MOST_SPECIAL or sum(sizes) > SPECIAL_CHARACTERS:
        found = f"{len(sizes)} special tokens of {sum(sizes)} characters"
        expected = f"at most {MOST_SPECIAL} of {SPECIAL_CHARACTERS} are allowed"
        fail("special-tokens", f"{PREFIX}token_type: there are {found}, {expected}; {DAMAGED}")


def _add_bos(metadata: Mapping[str, Any], default: bool, bos_id: int | None) -> bool:
    stated = read_flag(metadata, "add_bos_token")
    if stated and bos_id is None:
        fail("token-id-missing", f"{PREFIX}add_bos_token is true, but there is no {PREFIX}bos_token_id; {DAMAGED}")
    return default and bos_id is not None if stated is None else stated


def _merges(metadata: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    """Pairs of texts that are merged, the first first; of equal pairs the first counts, as in llama.cpp."""
    merges: dict[tuple[str, str], None] = {}
    for index, merge in enumerate(read_strings(metadata, "merges")):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            fail("merge-malformed", f"{PREFIX}merges[{index}] is {merge!r:.60}, expected two texts; {DAMAGED}")
        if left not in ids or right not in ids or left + right not in ids:
            missing = next(text for text in (left, right, left + right) if text not in ids)
            fail("merge-unknown-token", f"{PREFIX}merges[{index}] needs the token {missing!r:.60}; {DAMAGED}")
        merges[left, right] = None
    return tuple(merges)


def _may_be_merged(text: str, ids: Mapping[str, int]) -> bool:
    """Whether a text that looks like a marker is two other tokens: then it is a word, as in a page about HTML."""
    if not text.startswith(MARKER_BEGINNINGS) or len(text) > MARKER_CHARACTERS:
        return False
    return any(text[:cut] in ids and text[cut:] in ids for cut in range(1, len(text)))
