"""Byte-level byte-pair encoding: a text is cut into words, and the bytes of each are merged by a list of pairs.

*Not guaranteed*: that every text survives. Some vocabularies lack rare bytes (SmolLM2 lacks 0x04 and the first byte of
unassigned planes); such bytes are dropped, as llama.cpp drops them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import AddedToken, Regex, models, pre_tokenizers

from numoe.model.text.part import UNCUT_CHARACTERS, Part, Uncuttable
from numoe.model.text.spelling import token_bytes
from numoe.model.text.token_types import TokenType
from numoe.model.text.vocabulary import RankedPairs, Vocabulary

# A text may be cut between a letter or digit and one of these: every pattern ends a word or number there and begins
# anew, and none looks back. Not among them: what is a mark, as that may belong to the letter before. Letters are those
# of the alphabets most written in, as libraries disagree on new ones.
_LETTERS = "A-Za-zÀ-ÖØ-öø-ʯΑ-ΡΣ-Ωα-ωЀ-џא-תء-غف-يअ-हก-ะぁ-ゔァ-ヺ一-龥가-힣"
_WORD_END = re.compile(f"[{_LETTERS}0-9](?=(.))", re.DOTALL)
_NEXT_CHARACTERS = " \t\n\r!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~、。「」『』（），：；！？"  # noqa: RUF001
_NEVER = re.compile("(?!)")

# One text is never shared out over threads, of which the library would start one for each CPU all the same.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class BytePairs:
    """Encodes with a vocabulary of ranked pairs. Thread-safe."""

    __slots__ = ("_control_found", "_cut", "_plain", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, pairs: RankedPairs) -> None:
        self._vocabulary = vocabulary
        user_defined = self._texts(TokenType.USER_DEFINED)
        control = [*self._texts(TokenType.CONTROL), *self._texts(TokenType.UNKNOWN)]
        bpe = _build_model(vocabulary, pairs, frozenset())
        # Plain text must not become a control token by merges either, nor as a word that is taken whole. A single
        # character stays: it spells a byte.
        hidden = frozenset(text for text in control if len(text) > 1)
        reached = pairs.pretokenizer.whole_words or any(left + right in hidden for left, right in pairs.merges)
        # Two tokenizers, over one BPE model if they can be: which tokens are found in text is a tokenizer's property.
        self._plain = _build(_build_model(vocabulary, pairs, hidden) if reached else bpe, pairs, user_defined)
        found = [*user_defined, *control]
        self._control_found = _build(bpe, pairs, found)
        inside = {match[1] for text in found for match in _WORD_END.finditer(text)}
        following = "".join(map(re.escape, sorted(set(_NEXT_CHARACTERS) - inside)))
        self._cut = re.compile(f"[{_LETTERS}0-9](?=[{following}])") if following else _NEVER

    def encode(self, part: Part) -> list[int]:
        """The token ids of one part."""
        tokenizer = self._control_found if part.special else self._plain
        # `encode` would hold the GIL all the time, and count characters that nobody asks for.
        [encoding] = tokenizer.encode_batch_fast([part.text], add_special_tokens=False)
        return encoding.ids

    def encode_parts(self, parts: Iterable[Part], characters: int) -> Iterator[list[int]]:
        """As Tokenizer.encode_parts; each part is encoded by itself."""
        for part in parts:
            for piece in self.pieces(part.text, characters):
                yield self.encode(Part(piece, part.special))

    def pieces(self, text: str, characters: int) -> Iterator[str]:
        """As Tokenizer.pieces: as many characters more as there are to the next end of a word or number."""
        start = 0
        while cut := self._cut.search(text, start + characters - 1, start + UNCUT_CHARACTERS + 1):
            yield text[start : cut.end()]
            start = cut.end()
        if len(text) - start > UNCUT_CHARACTERS:
            raise Uncuttable
        yield text[start:]

    def control_texts(self, text: str) -> set[str]:
        """As Tokenizer.control_texts."""
        found = {token_id for token_id in self.encode(Part(text, True)) if not token_bytes(self._vocabulary, token_id)}
        return {token_bytes(self._vocabulary, token_id, control=True).decode() for token_id in found} - {""}

    def _texts(self, token_type: TokenType) -> list[str]:
        vocabulary = self._vocabulary
        return [text for text, found in zip(vocabulary.texts, vocabulary.types, strict=True) if found is token_type]


def _build_model(vocabulary: Vocabulary, pairs: RankedPairs, hidden: frozenset[str]) -> models.BPE:
    """Build the merging of symbols, without the tokens `hidden` and without what is merged from them."""
    return models.BPE(
        {text: token_id for token_id, text in enumerate(vocabulary.texts) if text and text not in hidden},
        [pair for pair in pairs.merges if hidden.isdisjoint((*pair, "".join(pair)))],
        ignore_merges=pairs.pretokenizer.whole_words,
    )


def _build(bpe: models.BPE, pairs: RankedPairs, found: Iterable[str]) -> tokenizers.Tokenizer:
    """Build a tokenizer that finds the texts `found` first, then cuts the rest into words and encodes these."""
    tokenizer = tokenizers.Tokenizer(bpe)
    words = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pairs.pretokenizer.patterns]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, spell])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in found if text])
    return tokenizer
