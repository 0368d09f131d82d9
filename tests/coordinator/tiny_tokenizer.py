"""A real tokenizer over the tiny vocabulary, and the token ids that spell plain text in it."""

from __future__ import annotations

import numpy as np

from numoe.model.text.tokenizer import Tokenizer
from tests.tiny_vocabulary import IM_END, SMALLEST_VOCABULARY, tiny_vocabulary


def tiny_tokenizer() -> Tokenizer:
    vocabulary = tiny_vocabulary(SMALLEST_VOCABULARY)
    return Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": list(vocabulary.tokens),
            "tokenizer.ggml.token_type": np.array(vocabulary.types, np.int32),
            "tokenizer.ggml.merges": list(vocabulary.merges),
            "tokenizer.ggml.eos_token_id": vocabulary.tokens.index(IM_END),
        }
    )


TOKENIZER = tiny_tokenizer()
END_ID = min(TOKENIZER.end_ids)
LETTERS = tuple(TOKENIZER.encode(letter)[0] for letter in "abcde")
ALL_IDS = tuple(token_id for token_id in range(TOKENIZER.vocabulary) if token_id not in TOKENIZER.end_ids)


def text_of(token_ids: list[int]) -> str:
    """What these tokens spell, decoded in one piece."""
    return b"".join(TOKENIZER.token_bytes(token_id) for token_id in token_ids).decode("utf-8", "replace")
