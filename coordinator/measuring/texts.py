"""A text to evaluate, in chunks of one context's length, as llama-perplexity cuts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numoe.model.text.part import Part, Uncuttable
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import SetupError

LEAST_CONTEXT = 4  # of a chunk of 3 one token would be evaluated, of 2 none


def read_text(path: Path) -> str:
    """A file's text, without the line's end that closes it, as llama.cpp reads a prompt. Raises SetupError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SetupError(f"the text {path} cannot be read: {error.strerror}") from error
    try:
        return data.removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at {error.start}"
        raise SetupError(f"the text {path} is no UTF-8: found {found}") from None


def encode_text(text: str, tokenizer: Tokenizer) -> NDArray[np.int32]:  # [T]
    """Its token ids, control tokens in it as plain text, behind the BOS of a vocabulary that adds one."""
    try:
        runs = list(tokenizer.encode_parts([Part(text, special=False)]))
    except Uncuttable as error:
        raise SetupError(f"the text cannot be encoded: {error}") from error
    before = [tokenizer.bos_id] if tokenizer.add_bos else []
    return np.array([*before, *(token_id for run in runs for token_id in run)], np.int32)


def cut_text(tokens: NDArray[np.int32], context: int, most: int | None = None) -> NDArray[np.int32]:  # [chunks, c]
    """Whole chunks, the rest left out; `most` of them. Raises SetupError for fewer than two contexts of tokens."""
    if context < LEAST_CONTEXT:
        raise SetupError(f"--ctx-size is {context}, expected at least {LEAST_CONTEXT}")
    if len(tokens) < 2 * context:
        expected = f"at least {2 * context}, two contexts of --ctx-size {context}"
        raise SetupError(
            f"the text has {len(tokens)} tokens, expected {expected}: take a longer text or a smaller context"
        )
    count = min(len(tokens) // context, len(tokens) if most is None else most)
    return tokens[: count * context].reshape(count, context)
