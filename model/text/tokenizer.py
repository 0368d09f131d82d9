"""Makes token ids of text and text of token ids, by byte-level byte-pair encoding with a GGUF file's vocabulary.

*Guarantees*: the ids of llama.cpp for the same file, so no Unicode normalisation (Hugging Face's Qwen tokenizers
normalise to NFC and differ there). Control tokens are found in a text only if the caller says so. Thread-safe.

*Not guaranteed*: that every text survives. Some vocabularies lack rare bytes (SmolLM2 lacks 0x04 and the first byte of
unassigned planes); such bytes are dropped, as llama.cpp drops them.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, models, pre_tokenizers

from numoe.model.text.token_types import TokenType
from numoe.model.text.vocabulary import Vocabulary, read_vocabulary


def _spell_bytes() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where printable, else U+0100 and up in order of the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(rest)}


BYTE_SPELLINGS: Mapping[int, str] = MappingProxyType(_spell_bytes())
_BYTES = {spelling: byte for byte, spelling in BYTE_SPELLINGS.items()}

# A text may be cut between a letter or digit and one of these: every pattern ends a word or number there and begins
# anew, and none looks back. Not among them: what is a mark, as that may belong to the letter before. Letters are those
# of the alphabets most written in, as libraries disagree on new ones.
_LETTERS = "A-Za-zÀ-ÖØ-öø-ʯΑ-ΡΣ-Ωα-ωЀ-џא-תء-غف-يअ-हก-ะぁ-ゔァ-ヺ一-龥가-힣"
_WORD_END = re.compile(f"[{_LETTERS}0-9](?=(.))", re.DOTALL)
_NEXT_CHARACTERS = " \t\n\r!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~、。「」『』（），：；！？"  # noqa: RUF001
PIECE_CHARACTERS = 1 << 14
UNCUT_CHARACTERS = 1 << 18  # that are searched for the next place; so many letters take 0.1 s to encode, and 65 MB

_NEVER = re.compile("(?!)")

# One text is never shared out over threads, of which the library would start one for each CPU all the same.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Tokenizer:
    """A model's tokenizer. Thread-safe."""

    __slots__ = (
        "_control_found",
        "_cut",
        "_plain",
        "_vocabulary",
        "add_bos",
        "bos_id",
        "end_ids",
        "longest_token_bytes",
        "vocabulary",
    )

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.vocabulary = len(vocabulary.texts)
        self.bos_id = vocabulary.bos_id
        self.add_bos = vocabulary.add_bos  # whether a prompt begins with bos_id; encode() leaves that to its caller
        self.end_ids = vocabulary.end_ids  # an answer ends with any of these
        user_defined = self._texts(TokenType.USER_DEFINED)
        control = [*self._texts(TokenType.CONTROL), *self._texts(TokenType.UNKNOWN)]
        bpe = _build_model(vocabulary, frozenset())
        # Plain text must not become a control token by merges either, nor as a word that is taken whole. A single
        # character stays: it spells a byte.
        hidden = frozenset(text for text in control if len(text) > 1)
        reached = vocabulary.pretokenizer.whole_words or any(
            left + right in hidden for left, right in vocabulary.merges
        )
        # Two tokenizers, over one BPE model if they can be: which tokens are found in text is a tokenizer's property.
        self._plain = _build(_build_model(vocabulary, hidden) if reached else bpe, vocabulary, user_defined)
        found = [*user_defined, *control]
        self._control_found = _build(bpe, vocabulary, found)
        inside = {match[1] for text in found for match in _WORD_END.finditer(text)}
        following = "".join(map(re.escape, sorted(set(_NEXT_CHARACTERS) - inside)))
        self._cut = re.compile(f"[{_LETTERS}0-9](?=[{following}])") if following else _NEVER
        self.longest_token_bytes = max(map(_byte_length, vocabulary.texts))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer that a GGUF file's metadata describe. Raises ModelFileError and UnsupportedModel."""
        return cls(read_vocabulary(metadata))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a text, without bos_id; `special`: control tokens that stand in it become their ids.

        Other threads run meanwhile: a megabyte of text takes half a second.
        """
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can carry and UTF-8 cannot
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        tokenizer = self._control_found if special else self._plain
        # `encode` would hold the GIL all the time, and count characters that nobody asks for.
        [encoding] = tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return encoding.ids

    def pieces(self, text: str, characters: int = PIECE_CHARACTERS) -> Iterator[str]:
        """Cut a text into pieces whose tokens, one after the other, are those of the whole.

        Pieces have at least so many characters, and as many more as there are to the next end of a word or number. One
        that has more than UNCUT_CHARACTERS is all the rest: it was not searched any further.
        """
        start = 0
        while cut := self._cut.search(text, start + characters - 1, start + UNCUT_CHARACTERS + 1):
            yield text[start : cut.end()]
            start = cut.end()
        yield text[start:]

    def token_bytes(self, token_id: int, *, control: bool = False) -> bytes:
        """The bytes that a token stands for: none for control tokens and the like, with `control` their names.

        Raises:
            IndexError: there is no such token.
        """
        if not 0 <= token_id < self.vocabulary:
            raise IndexError(f"token id {token_id} is outside the vocabulary of {self.vocabulary}")
        return token_bytes(self._vocabulary, token_id, control=control)

    def _texts(self, token_type: TokenType) -> list[str]:
        vocabulary = self._vocabulary
        return [text for text, found in zip(vocabulary.texts, vocabulary.types, strict=True) if found is token_type]


def token_bytes(vocabulary: Vocabulary, token_id: int, *, control: bool = False) -> bytes:
    """The bytes that a token of a vocabulary stands for: none for control tokens, with `control` their names."""
    text, token_type = vocabulary.texts[token_id], vocabulary.types[token_id]
    if token_type is TokenType.NORMAL:
        try:
            return bytes([_BYTES[spelling] for spelling in text])
        except KeyError:  # a token that the converter did not spell out in bytes
            return text.encode()
    return text.encode() if control or token_type is TokenType.USER_DEFINED else b""


def _build_model(vocabulary: Vocabulary, hidden: frozenset[str]) -> models.BPE:
    """Build the merging of symbols, without the tokens `hidden` and without what is merged from them."""
    return models.BPE(
        {text: token_id for token_id, text in enumerate(vocabulary.texts) if text and text not in hidden},
        [pair for pair in vocabulary.merges if hidden.isdisjoint((*pair, "".join(pair)))],
        ignore_merges=vocabulary.pretokenizer.whole_words,
    )


def _byte_length(text: str) -> int:
    """At most so many bytes a token stands for."""
    return len(text) if _BYTES.keys() >= set(text) else len(text.encode())


def _build(bpe: models.BPE, vocabulary: Vocabulary, found: Iterable[str]) -> tokenizers.Tokenizer:
    """Build a tokenizer that finds the texts `found` first, then cuts the rest into words and encodes these."""
    tokenizer = tokenizers.Tokenizer(bpe)
    words = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in vocabulary.pretokenizer.patterns]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, spell])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in found if text])
    return tokenizer


class Detokenizer:
    """Makes the text of an answer while its tokens come; it gives out a character once all its bytes are there."""

    __slots__ = ("_decoder", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps none; bytes that cannot be UTF-8 become U+FFFD."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """The rest after the last token: U+FFFD if a character is incomplete, else nothing."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
