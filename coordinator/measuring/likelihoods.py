"""Means with their errors, and perplexity, as llama-perplexity works them out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Uncertain:
    """A value and its standard error."""

    value: float
    error: float


class Likelihoods:
    """The running sums of a text's negative log-likelihoods."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = self._squares = 0.0

    def add(self, log_likelihoods: NDArray[np.float64]) -> None:
        """Take in ln p of further tokens."""
        self.count += len(log_likelihoods)
        self._sum -= float(log_likelihoods.sum())
        self._squares += float(np.square(log_likelihoods).sum())

    @property
    def perplexity(self) -> Uncertain:
        """exp of the mean, and its error by that of the mean; no error of a single token."""
        mean = self._sum / self.count
        variance = self._squares / self.count - mean * mean
        error = math.sqrt(variance / (self.count - 1)) if variance > 0 and self.count > 1 else 0.0
        found = _exp(mean)
        return Uncertain(found, error * found)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
