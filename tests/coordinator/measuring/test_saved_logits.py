"""llama-perplexity's file of log-probabilities: its bytes, both ways, and what is no such file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from numoe.coordinator.measuring.saved_logits import levels, open_saved, pack_rows, row_words, saving
from numoe.protos.errors import SetupError

CONTEXT, VOCABULARY = 8, 5
CHUNKS = np.arange(16, dtype=np.int32).reshape(2, CONTEXT) % VOCABULARY
ROWS = 2 * (CONTEXT - 1 - CONTEXT // 2)
LOGITS = np.random.default_rng(0).normal(0, 6, (ROWS, VOCABULARY)).astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "logits"
    with saving(path, CHUNKS, VOCABULARY) as writer:
        for row in LOGITS:
            writer.write(pack_rows(row[None]))
    return path


def test_the_bytes_are_those_of_the_format(saved: Path) -> None:
    data = saved.read_bytes()
    head = b"_logits_" + struct.pack("<3i", CONTEXT, VOCABULARY, 2) + CHUNKS.astype("<i4").tobytes()
    assert data[: len(head)] == head
    assert len(data) == len(head) + ROWS * 2 * (4 + VOCABULARY + 1)
    row = data[len(head) :][: 2 * (4 + VOCABULARY + 1)]
    scale, least = struct.unpack("<2f", row[:8])
    numbers = np.array(struct.unpack("<5H", row[8:18]))
    assert row[18:] == b"\0\0"
    first = LOGITS[0].astype(np.float64)
    floor = max(first.min(), first.max() - 16)
    assert scale == pytest.approx((first.max() - floor) / 65535, rel=1e-6)
    assert least == pytest.approx(floor - np.log(np.exp(first).sum()), rel=1e-6)
    assert abs(numbers - np.maximum(first - floor, 0) / scale).max() < 0.51
    assert not list(saved.parent.glob("*.part"))


def test_rounding_is_to_the_nearest_with_ties_to_even_in_float32() -> None:
    """Of powers of two nothing is lost on the way to the rounding."""
    logits = np.array([[0.0, 65535 / 8192, 0.5 / 8192, 1.5 / 8192, 2.5 / 8192, 2.6 / 8192]], np.float32)
    _, _, numbers = levels(pack_rows(logits), 6)
    assert numbers.tolist() == [[0, 65535, 0, 2, 2, 3]]


def test_what_is_read_is_what_was_written(saved: Path) -> None:
    found = open_saved(saved, VOCABULARY)
    np.testing.assert_array_equal(found.tokens, CHUNKS)
    words = np.concatenate([found.rows(0, 2), found.rows(2, ROWS - 2)])
    np.testing.assert_array_equal(words, pack_rows(LOGITS))
    scale, least, numbers = levels(words, VOCABULARY)
    expected = LOGITS - np.logaddexp.reduce(LOGITS.astype(np.float64), axis=1, keepdims=True)
    floor = expected.max(axis=1, keepdims=True) - 16
    np.testing.assert_allclose(numbers * scale + least, np.maximum(expected, floor), atol=float(scale.max()))


def test_equal_logits_have_no_scale() -> None:
    scale, least, numbers = levels(pack_rows(np.full((1, 4), 3.0, np.float32)), 4)
    assert scale.item() == 0
    assert not numbers.any()
    assert least.item() == pytest.approx(np.log(0.25))
    assert row_words(4) == 8


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "logits"
    path.write_text("what was there")

    def write_and_interrupt() -> None:
        with saving(path, CHUNKS, VOCABULARY) as writer:
            writer.write(pack_rows(LOGITS))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt()
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: b"", "begins with b'', expected b'_logits_'"),
        (lambda data: b"GGUF" + data, "begins with b'GGUF_log'"),
        (lambda data: data[:15], "no file of log-probabilities"),
        (lambda data: data[:-1], "has 203 bytes, expected 204: it is cut short"),
        (lambda data: data[:30], "has 30 bytes, expected 204: it is cut short"),
        (lambda data: data + b"\0", "has 205 bytes, expected 204: it is damaged"),
        (lambda data: data[:8] + struct.pack("<3i", -8, 5, 2) + data[20:], "says 2 chunks of -8 tokens"),
        (lambda data: data[:8] + struct.pack("<3i", 2**31 - 1, 5, 2**31 - 1) + data[20:], "it is cut short"),
        (lambda data: data[:20] + struct.pack("<i", 5) + data[24:], "token ids outside its vocabulary of 5"),
        (lambda data: data[:20] + struct.pack("<i", -1) + data[24:], "token ids outside its vocabulary of 5"),
    ],
)
def test_what_is_no_such_file_is_refused_by_name(change: object, expected: str, saved: Path) -> None:
    assert callable(change)
    saved.write_bytes(change(saved.read_bytes()))
    with pytest.raises(SetupError) as raised:
        open_saved(saved)
    assert str(saved) in str(raised.value)
    assert expected in str(raised.value)


def test_another_vocabulary_and_a_file_that_is_not_there_are_refused(saved: Path) -> None:
    with pytest.raises(SetupError, match="is of a vocabulary of 5 tokens, the model's has 6"):
        open_saved(saved, 6)
    with pytest.raises(SetupError, match="none cannot be read: No such file"):
        open_saved(saved.with_name("none"))
    with pytest.raises(SetupError, match="cannot be written: No such file"), saving(Path("/none/x"), CHUNKS, 5):
        pass


def test_a_file_that_shrinks_meanwhile_is_noticed(saved: Path) -> None:
    found = open_saved(saved)
    saved.write_bytes(saved.read_bytes()[:-2])
    with pytest.raises(SetupError, match="has become shorter"):
        found.rows(0, ROWS)
