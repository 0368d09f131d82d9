"""Divergence from the truth, and the file that llama-perplexity saves logits in."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from bench.quality.divergence import divergence, read_saved
from numoe.protos.errors import SetupError


def test_equal_predictions_do_not_diverge_whatever_is_added_to_all_logits() -> None:
    truth = np.random.default_rng(0).standard_normal((3, 50))
    found = divergence(truth, truth + 7)
    assert found.kl == pytest.approx(0, abs=1e-14)
    assert found.agreement == 1


def test_the_divergence_of_two_coins_is_known() -> None:
    found = divergence(np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]]))
    assert found.kl == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2)
    assert divergence(np.log([[0.9, 0.1]]), np.log([[0.1, 0.9]])).agreement == 0


def test_very_unlikely_tokens_do_not_count() -> None:
    truth = np.array([[0.0, -20.0, -30.0]])
    assert divergence(truth, np.array([[0.0, -90.0, -17.0]])).kl == pytest.approx(0, abs=1e-14)


def test_saved_logits_are_read(tmp_path: Path) -> None:
    context, vocabulary, chunks = 8, 5, 2
    rows = chunks * (context - 1 - context // 2)
    levels = np.arange(rows * vocabulary, dtype=np.uint16).reshape(rows, vocabulary)
    data = b"_logits_" + struct.pack("<3i", context, vocabulary, chunks) + (np.arange(16, dtype="<i4") % 5).tobytes()
    for row in levels:
        data += struct.pack("<2f", 0.5, -3.0) + row.astype("<u2").tobytes() + b"\xff\xff"  # made even
    path = tmp_path / "saved"
    path.write_bytes(data)
    saved = read_saved(path)
    np.testing.assert_array_equal(saved.tokens, np.arange(16).reshape(2, 8) % 5)
    np.testing.assert_array_equal(saved.logits, levels * 0.5 - 3)
    path.write_bytes(data[:-2])
    with pytest.raises(SetupError, match="cut short"):
        read_saved(path)
