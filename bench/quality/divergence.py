"""How far a model's predictions are from the truth, and reading those that llama-perplexity saves."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"_logits_"
# llama-perplexity saves nothing lower than this below the largest logit; the same is done to all, or some thousand
# unlikely tokens would count as a difference.
DEEPEST = 16.0

Logits = NDArray[np.floating[Any]]  # [positions, V]


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far predictions are from the truth, over all positions."""

    kl: float  # mean Kullback-Leibler divergence of a position, in nats
    kl_error: float  # standard error of that mean
    agreement: float  # share of the positions whose likeliest token is the truth's


@dataclass(frozen=True, slots=True)
class SavedLogits:
    """What llama-perplexity --save-all-logits writes."""

    context: int  # tokens of a chunk
    tokens: NDArray[np.int32]  # [chunks, context]
    logits: NDArray[np.float32]  # [chunks * rows, V]: of positions context / 2 .. context - 2 of each chunk


def first_position(context: int) -> int:
    """The first position of a chunk that is evaluated."""
    return context // 2


def divergence(truth: Logits, found: Logits) -> Divergence:
    """The divergence of `found` from `truth`, compared row by row."""
    kl = [_kl(_log_probabilities(p), _log_probabilities(q)) for p, q in zip(truth, found, strict=True)]
    agreement = np.mean(truth.argmax(axis=1) == found.argmax(axis=1))
    return Divergence(float(np.mean(kl)), float(np.std(kl) / len(kl) ** 0.5), float(agreement))


def _log_probabilities(logits: Logits) -> NDArray[np.float64]:  # [V]
    raised = np.maximum(logits.astype(np.float64), float(logits.max()) - DEEPEST)
    found: NDArray[np.float64] = raised - np.logaddexp.reduce(raised)
    return found


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float(np.sum(np.exp(p) * (p - q)))


def read_saved(path: Path) -> SavedLogits:
    """Read the file that llama-perplexity --save-all-logits writes. Raises ValueError if it is none.

    A row is a scale and a least value, both float32, then V numbers of 16 bits.
    """
    data = path.read_bytes()
    if data[:8] != MAGIC:
        raise ValueError(f"{path} begins with {data[:8]!r}, expected {MAGIC!r}")
    context, vocabulary, chunks = struct.unpack_from("<3i", data, 8)
    tokens = np.frombuffer(data, "<i4", chunks * context, 20).reshape(chunks, context)
    row_words = 2 * ((vocabulary + 1) // 2) + 4
    words = np.frombuffer(data, "<u2", offset=20 + 4 * chunks * context)
    expected = chunks * (context - 1 - first_position(context)) * row_words
    if words.size != expected:
        raise ValueError(f"{path} holds {words.size} words of logits, expected {expected}")
    table = words.reshape(-1, row_words)
    scale, least = table[:, :4].copy().view("<f4").T
    logits = table[:, 4 : 4 + vocabulary] * scale[:, None] + least[:, None]
    return SavedLogits(context, tokens.astype(np.int32), logits.astype(np.float32))
