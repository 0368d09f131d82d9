"""A text in chunks, as llama-perplexity reads and cuts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from numoe.coordinator.measuring.texts import cut_text, encode_text, read_text
from numoe.model.text.part import UNCUT_CHARACTERS
from numoe.protos.errors import SetupError
from tests.coordinator.tiny_tokenizer import TOKENIZER


def test_whole_chunks_are_cut_and_the_rest_is_left_out() -> None:
    tokens = np.arange(19, dtype=np.int32)
    np.testing.assert_array_equal(cut_text(tokens, 6), np.arange(18).reshape(3, 6))
    np.testing.assert_array_equal(cut_text(tokens, 6, 2), np.arange(12).reshape(2, 6))
    assert len(cut_text(tokens, 6, 100)) == 3


def test_less_than_two_contexts_are_refused() -> None:
    with pytest.raises(SetupError, match="the text has 11 tokens, expected at least 12, two contexts of --ctx-size 6"):
        cut_text(np.zeros(11, np.int32), 6)
    assert len(cut_text(np.zeros(12, np.int32), 6)) == 2
    with pytest.raises(SetupError, match="--ctx-size is 3, expected at least 4"):
        cut_text(np.zeros(100, np.int32), 3)


def test_the_last_line_loses_its_end_and_no_other_byte_changes(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("a\r\nü \n\n".encode())
    assert read_text(path) == "a\r\nü \n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot be read: No such file"), (b"ab\xff", "is no UTF-8: found byte 0xff at 2")],
)
def test_what_cannot_be_read_is_refused_by_name(content: bytes | None, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=f"{path} {expected}"):
        read_text(path)
    with pytest.raises(SetupError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_control_tokens_in_a_text_are_plain_text() -> None:
    control = next(iter(TOKENIZER.control_texts("<|im_end|> <|im_start|> </s>")), "<|im_end|>")
    found = encode_text(f"a{control}b", TOKENIZER).tolist()
    before = [TOKENIZER.bos_id] if TOKENIZER.add_bos else []
    assert found == before + TOKENIZER.encode(f"a{control}b", special=False)


def test_a_text_that_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(SetupError, match="the text cannot be encoded"):
        encode_text("a" * (UNCUT_CHARACTERS + 10), TOKENIZER)
