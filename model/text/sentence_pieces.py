"""SentencePiece's BPE: a text is merged as a whole, of all neighbours those first whose token has the highest score.

*Guarantees*: the ids of llama.cpp for the same file, which is the same algorithm, except that plain text never becomes
a control token, nor text like <0x0A> a byte. Of equal scores the one further left is merged first.

*Rejected*: the merge list of `tokenizers`, as transformers makes it of the scores. There every pair has a rank of its
own, so that equal scores cannot be said, and those decide: all runs of blanks in Llama's vocabulary have one score.

*Not guaranteed*: that every text survives. U+2581 comes back as a blank; bytes that the vocabulary lacks become its
unknown token, which shows nothing, and so does a token with U+0000, which is never made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from sentencepiece import SentencePieceProcessor

from numoe.model.text.control_tokens import is_special
from numoe.model.text.part import UNCUT_CHARACTERS, Part, Uncuttable
from numoe.model.text.special_texts import SpecialTexts
from numoe.model.text.spelling import BLANK
from numoe.model.text.token_types import BYTE_TEXTS, TokenType
from numoe.model.text.vocabulary import ScoredTokens, Vocabulary

_CONTROL = (TokenType.CONTROL, TokenType.UNKNOWN)


class SentencePieces:
    """Encodes with a vocabulary of scored tokens. Thread-safe."""

    __slots__ = (
        "_control",
        "_joined",
        "_processor",
        "_space_prefix",
        "_special",
        "_tokens",
        "_unknown",
        "_user_defined",
    )

    def __init__(self, vocabulary: Vocabulary, scored: ScoredTokens) -> None:
        self._space_prefix = scored.space_prefix
        self._tokens = len(vocabulary.texts)
        self._unknown = [] if scored.unknown_id is None else [scored.unknown_id]
        tokens = zip(vocabulary.texts, vocabulary.types, strict=True)
        special = [(text, token_id, kind) for token_id, (text, kind) in enumerate(tokens) if is_special(kind) and text]
        self._control = {token_id: text for text, token_id, kind in special if kind in _CONTROL}
        self._special = SpecialTexts([(text, token_id) for text, token_id, _ in special])
        shown = [(text, token_id) for text, token_id, kind in special if kind not in _CONTROL]
        self._user_defined = SpecialTexts(shown)
        escaped = {text.replace(" ", BLANK) for text in vocabulary.texts}
        self._joined = {first + second for text in escaped for first, second in pairwise(text)}
        self._processor = SentencePieceProcessor(model_proto=_model(vocabulary, scored.scores))

    def encode(self, part: Part) -> list[int]:
        """The token ids of one part."""
        return [token_id for ids in self.encode_parts((part,), len(part.text) + 1) for token_id in ids]

    def encode_parts(self, parts: Iterable[Part], characters: int) -> Iterator[list[int]]:
        """As Tokenizer.encode_parts; plain text is merged across the borders of parts."""
        for fragment in self._fragments(parts):
            if isinstance(fragment, int):
                yield [fragment]
                continue
            for piece in self.pieces(" " + fragment if self._space_prefix else fragment, characters):
                yield self._encode(piece)

    def pieces(self, text: str, characters: int) -> Iterator[str]:
        """As Tokenizer.pieces: as many characters more as there are to two neighbours that no token holds."""
        start = 0
        while (end := self._find_cut(text, start + characters, start + UNCUT_CHARACTERS + 1)) is not None:
            yield text[start:end]
            start = end
        if len(text) - start > max(UNCUT_CHARACTERS, characters):
            raise Uncuttable
        yield text[start:]

    def control_texts(self, text: str) -> set[str]:
        """As Tokenizer.control_texts."""
        found = {fragment for fragment in self._special.split(text) if isinstance(fragment, int)}
        return {self._control[token_id] for token_id in found & self._control.keys()}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text.replace(" ", BLANK))
        if max(ids, default=0) < self._tokens:
            return ids
        return [known for token_id in ids for known in ([token_id] if token_id < self._tokens else self._unknown)]

    def _find_cut(self, text: str, start: int, end: int) -> int | None:
        for place in range(start, min(end, len(text))):
            if text[place - 1 : place + 1].replace(" ", BLANK) not in self._joined:
                return place
        return None

    def _fragments(self, parts: Iterable[Part]) -> Iterator[str | int]:
        """Special tokens, and between them plain text, whole."""
        plain: list[str] = []
        for part in parts:
            for fragment in (self._special if part.special else self._user_defined).split(part.text):
                if isinstance(fragment, str):
                    plain.append(fragment)
                    continue
                if plain:
                    yield "".join(plain)
                    plain.clear()
                yield fragment
        if plain:
            yield "".join(plain)


def _model(vocabulary: Vocabulary, scores: Sequence[float]) -> bytes:
    """The library's model file: a protobuf message, whose fields and numbers are those of sentencepiece_model.proto.

    *Rejected*: the library's own protobuf module. It registers itself under a name that transformers, too, registers,
    and asks for a protobuf as new as that which made it.
    """
    pieces = list(map(_kind, vocabulary.texts, vocabulary.types))
    named = {text for text, _ in pieces} | BYTE_TEXTS.keys()
    message = bytearray()
    for token_id, ((text, kind), score) in enumerate(zip(pieces, scores, strict=True)):
        message += _piece(text or _unused_name(token_id, named), score, kind)
    message += _piece(_unused_name(len(pieces), named), 0.0, TokenType.UNKNOWN)  # which it has to have; never comes out
    for text in sorted(BYTE_TEXTS.keys() - {text for text, _ in pieces}):
        message += _piece(text, 0.0, TokenType.BYTE)
    trainer = _number(3, 2) + _number(35, 1)  # model_type BPE, byte_fallback
    normalizer = _bytes(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 0)  # nothing is added or removed
    return bytes(message) + _bytes(2, trainer) + _bytes(3, normalizer)


def _kind(text: str, token_type: TokenType) -> tuple[str, TokenType]:
    """What a token is to the library, "" for one that no merge is to make."""
    if text in BYTE_TEXTS:
        return text, TokenType.BYTE
    if not text or "\0" in text or token_type in _CONTROL:
        return "", TokenType.CONTROL
    return text, TokenType.NORMAL


def _unused_name(token_id: int, named: set[str]) -> str:
    name = f"\ue000{token_id}"
    while name in named:
        name += "\ue000"
    return name


def _piece(text: str, score: float, token_type: TokenType) -> bytes:
    # The library compares bits, by which -0.0 would be less than 0.0.
    return _bytes(1, _bytes(1, text.encode()) + b"\x15" + struct.pack("<f", score + 0.0) + _number(3, token_type))


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
