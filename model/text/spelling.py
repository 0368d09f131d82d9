"""What bytes a token stands for, in the two spellings of vocabularies.

Byte-level BPE writes every byte as one printable character. SentencePiece writes a blank as U+2581 and other characters
as they are, and has tokens called <0x00> to <0xFF> for the bytes of characters that it does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from numoe.model.text.token_types import BYTE_TEXTS, TokenType
from numoe.model.text.vocabulary import RankedPairs, Vocabulary

BLANK = "\u2581"


def _spell_bytes() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where printable, else U+0100 and up in order of the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(rest)}


BYTE_SPELLINGS: Mapping[int, str] = MappingProxyType(_spell_bytes())
_BYTES = {spelling: byte for byte, spelling in BYTE_SPELLINGS.items()}


def token_bytes(vocabulary: Vocabulary, token_id: int, *, control: bool = False) -> bytes:
    """The bytes that a token of a vocabulary stands for: none for control tokens, with `control` their names."""
    text, token_type = vocabulary.texts[token_id], vocabulary.types[token_id]
    ranked = isinstance(vocabulary.merging, RankedPairs)
    if token_type is TokenType.NORMAL:
        return _spelled_bytes(text) if ranked else text.replace(BLANK, " ").encode()
    if token_type is TokenType.BYTE and not ranked:
        return bytes([BYTE_TEXTS[text]])
    return text.encode() if control or token_type is TokenType.USER_DEFINED else b""


def longest_token_bytes(vocabulary: Vocabulary) -> int:
    """At most so many bytes of a text one token stands for."""
    if isinstance(vocabulary.merging, RankedPairs):
        return max(len(text) if _BYTES.keys() >= set(text) else len(text.encode()) for text in vocabulary.texts)
    return max(len(text.encode()) for text in vocabulary.texts)  # a text may hold U+2581 itself, of three bytes


def _spelled_bytes(text: str) -> bytes:
    try:
        return bytes([_BYTES[spelling] for spelling in text])
    except KeyError:  # a token that the converter did not spell out in bytes
        return text.encode()
