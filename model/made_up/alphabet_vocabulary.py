"""Makes a vocabulary of any size that really tokenises text, for models without meaning.

It holds the 256 bytes, then pairs, triples and fours of letters in alphabetical order (each may begin with a space),
each merged from two shorter tokens, and at the end ChatML's control tokens, as in Qwen's vocabularies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.values import Value
from numoe.model.text.spelling import BYTE_SPELLINGS
from numoe.model.text.token_types import TokenType
from numoe.model.text.vocabulary_keys import PREFIX
from numoe.protos.errors import SetupError

CONTROL = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
USER_DEFINED = "<think>", "</think>"
SMALLEST = len(BYTE_SPELLINGS) + len(CONTROL) + len(USER_DEFINED)
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


def vocabulary_metadata(size: int) -> dict[str, Value | Sequence[str]]:
    """The tokenizer's keys of a GGUF file with `size` tokens. Raises SetupError if these are too few."""
    if size < SMALLEST:
        raise SetupError(f"a vocabulary of {size} tokens is too small, {SMALLEST} is the least")
    merges = list(islice(_merges(), size - SMALLEST))
    normal = [*BYTE_SPELLINGS.values(), *(left + right for left, right in merges)]
    unused = [f"[UNUSED_{token_id}]" for token_id in range(len(normal), size - len(CONTROL) - len(USER_DEFINED))]
    tokens = [*normal, *unused, *CONTROL, *USER_DEFINED]
    first_control = len(normal) + len(unused)
    types: NDArray[np.int32] = np.full(size, TokenType.NORMAL, np.int32)
    types[len(normal) : first_control] = TokenType.UNUSED
    types[first_control:] = TokenType.CONTROL
    types[-len(USER_DEFINED) :] = TokenType.USER_DEFINED
    end_of_text, _, end_of_turn = range(first_control, first_control + len(CONTROL))
    return {
        f"{PREFIX}model": "gpt2",
        f"{PREFIX}pre": "qwen2",
        f"{PREFIX}tokens": tokens,
        f"{PREFIX}token_type": types,
        f"{PREFIX}merges": [f"{left} {right}" for left, right in merges],
        f"{PREFIX}eos_token_id": end_of_turn,
        f"{PREFIX}bos_token_id": end_of_text,
        f"{PREFIX}padding_token_id": end_of_text,
        f"{PREFIX}add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of earlier tokens, 493,506 in all; no two make the same text."""
    first_letters = BYTE_SPELLINGS[ord(" ")] + ascii_lowercase
    pairs = [left + right for left, right in product(first_letters, ascii_lowercase)]
    yield from product(first_letters, ascii_lowercase)
    yield from product(pairs, ascii_lowercase)
    yield from product(pairs, (left + right for left, right in product(ascii_lowercase, repeat=2)))
