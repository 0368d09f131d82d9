"""How far a model's predictions are from the truth, and reading those that llama-perplexity saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.measuring.evaluation import rows_of
from numoe.coordinator.measuring.saved_logits import DEEPEST, levels, open_saved

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


def divergence(truth: Logits, found: Logits) -> Divergence:
    """The divergence of `found` from `truth`, compared row by row."""
    kl = [_kl(_log_probabilities(p), _log_probabilities(q)) for p, q in zip(truth, found, strict=True)]
    agreement = np.mean(truth.argmax(axis=1) == found.argmax(axis=1))
    return Divergence(float(np.mean(kl)), float(np.std(kl) / len(kl) ** 0.5), float(agreement))


def _log_probabilities(logits: Logits) -> NDArray[np.float64]:  # [V]
    # As llama-perplexity does when it saves: some thousand unlikely tokens would count as a difference.
    raised = np.maximum(logits.astype(np.float64), float(logits.max()) - DEEPEST)
    found: NDArray[np.float64] = raised - np.logaddexp.reduce(raised)
    return found


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float(np.sum(np.exp(p) * (p - q)))


def read_saved(path: Path) -> SavedLogits:
    """Read the file that llama-perplexity --save-all-logits writes. Raises SetupError if it is none."""
    saved = open_saved(path)
    scale, least, numbers = levels(saved.rows(0, len(saved.tokens) * rows_of(saved.context)), saved.vocabulary)
    return SavedLogits(saved.context, saved.tokens, numbers * scale + least)
