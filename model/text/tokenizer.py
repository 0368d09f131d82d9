"""Makes token ids of text and text of token ids, with a GGUF file's vocabulary.

*Guarantees*: the ids of llama.cpp for the same file, so no Unicode normalisation (Hugging Face's Qwen tokenizers
normalise to NFC and differ there). Control tokens are found in a text only if the caller says so. Other threads run
while it encodes: a megabyte of text takes half a second. Thread-safe.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from numoe.model.text.byte_pairs import BytePairs
from numoe.model.text.part import Part
from numoe.model.text.sentence_pieces import SentencePieces
from numoe.model.text.spelling import longest_token_bytes, token_bytes
from numoe.model.text.vocabulary import RankedPairs, Vocabulary, read_vocabulary

PIECE_CHARACTERS = 1 << 14


class Tokenizer:
    """A model's tokenizer. Thread-safe."""

    __slots__ = (
        "_encoding",
        "_vocabulary",
        "add_bos",
        "bos_id",
        "end_ids",
        "leading_blank",
        "longest_token_bytes",
        "marks_blanks",
        "vocabulary",
    )

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.vocabulary = len(vocabulary.texts)
        self.bos_id = vocabulary.bos_id
        self.add_bos = vocabulary.add_bos  # whether a prompt begins with bos_id; encode() leaves that to its caller
        self.end_ids = vocabulary.end_ids  # an answer ends with any of these
        self.longest_token_bytes = longest_token_bytes(vocabulary)
        merging = vocabulary.merging
        self.marks_blanks = not isinstance(merging, RankedPairs)  # whether U+2581 in a text is the same as a blank
        self._encoding: BytePairs | SentencePieces
        if isinstance(merging, RankedPairs):
            self._encoding, self.leading_blank = BytePairs(vocabulary, merging), False
        else:
            self._encoding, self.leading_blank = SentencePieces(vocabulary, merging), merging.space_prefix

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer that a GGUF file's metadata describe. Raises ModelFileError and UnsupportedModel."""
        return cls(read_vocabulary(metadata))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a text, without bos_id; `special`: control tokens that stand in it become their ids."""
        return self._encoding.encode(Part(_well_formed(text), special))

    def encode_parts(self, parts: Iterable[Part], characters: int = PIECE_CHARACTERS) -> Iterator[list[int]]:
        """The token ids of a text that consists of these parts, a run at a time, so that a caller can stop between.

        A run is of about so many characters, and longer where a text cannot be cut. Raises Uncuttable where it would be
        much longer.
        """
        return self._encoding.encode_parts((Part(_well_formed(part.text), part.special) for part in parts), characters)

    def pieces(self, text: str, characters: int = PIECE_CHARACTERS) -> Iterator[str]:
        """Cut a text where no token, and no special one, can reach over the cut.

        Pieces have at least so many characters, and as many more as there are to the next such place. Raises Uncuttable
        where that is too far.
        """
        return self._encoding.pieces(text, characters)

    def control_texts(self, text: str) -> set[str]:
        """The control tokens that encode() would find in a text, as they are written."""
        return self._encoding.control_texts(_well_formed(text))

    def special_ids(self, texts: Iterable[str]) -> list[int]:
        """The ids of those of the texts that are one special token each."""
        encoded = [self.encode(text) for text in texts]
        return [ids[0] for ids in encoded if len(ids) == 1]

    def token_bytes(self, token_id: int, *, control: bool = False) -> bytes:
        """The bytes that a token stands for: none for control tokens and the like, with `control` their names.

        Raises:
            IndexError: there is no such token.
        """
        if not 0 <= token_id < self.vocabulary:
            raise IndexError(f"token id {token_id} is outside the vocabulary of {self.vocabulary}")
        return token_bytes(self._vocabulary, token_id, control=control)


def _well_formed(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can carry and UTF-8 cannot
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class Detokenizer:
    """Makes the text of an answer while its tokens come; it gives out a character once all its bytes are there.

    A vocabulary that puts a blank before a text has it left out after bos_id, which says that there the text begins.
    Tokens without that continue another text, and a blank before them separates the two.
    """

    __slots__ = ("_decoder", "_dropping", "_shown", "_started", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, shown: frozenset[int] = frozenset()) -> None:
        """`shown`: control tokens that give their names all the same."""
        self._tokenizer = tokenizer
        self._shown = shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False
        self._dropping = False

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps none; bytes that cannot be UTF-8 become U+FFFD."""
        spelled = self._spell(token_id)
        if self._dropping and spelled:
            self._dropping = False
            spelled = spelled.removeprefix(b" ")
        if not self._started:
            self._started = True
            self._dropping = self._tokenizer.leading_blank and token_id == self._tokenizer.bos_id
        return self._decoder.decode(spelled)

    def count_broken(self, token_id: int) -> int:
        """How many U+FFFD the bytes before this token give once it is pushed, as it does not go on with them."""
        first, (begun, _) = self._spell(token_id)[:1], self._decoder.getstate()
        return len((begun + first).decode(errors="replace")) - 1 if first else 0

    def finish(self) -> str:
        """The rest after the last token: U+FFFD if a character is incomplete, else nothing."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text

    def _spell(self, token_id: int) -> bytes:
        return self._tokenizer.token_bytes(token_id, control=token_id in self._shown)
