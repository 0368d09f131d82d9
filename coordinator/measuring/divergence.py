"""How far a model's predictions are from saved ones, token by token, and what llama-perplexity says of that.

Of each position: ln p of the following token by both, the Kullback-Leibler divergence of all tokens, the difference of
the following token's probability, and whether both find the same token likeliest. Tokens whose saved log-probability is
not above -16 are left out of the divergence, as there: they were raised when they were saved.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.measuring.evaluation import Predictions
from numoe.coordinator.measuring.likelihoods import Uncertain
from numoe.coordinator.measuring.saved_logits import DEEPEST, Words, levels, pack_rows

SLICE_VALUES = 1 << 18  # logits compared at once: 2 MiB in float64, which stay in a second-level cache
LEAST_COUNT = 10  # of values that have an error, as in llama-perplexity

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value for each position, all [R]."""

    nll: Floats  # -ln p of the token that follows, by the model
    base_nll: Floats  # and by what was saved
    divergence: Floats  # of the model from what was saved, in nats
    change: Floats  # of that token's probability
    same_top: NDArray[np.bool_]


def compare(logits: NDArray[np.float32], words: Words, targets: NDArray[np.int32]) -> Comparison:
    """Compare rows of logits [R, V] with saved ones, in float64."""
    rows, vocabulary = logits.shape
    scale, least, numbers = levels(words, vocabulary)
    base = numbers.astype(np.float64) * scale + least
    largest = logits.max(axis=1, keepdims=True)
    totals = np.exp(logits - largest).sum(axis=1, keepdims=True, dtype=np.float64)
    found = logits - (largest + np.log(totals))
    terms = np.exp(base) * (base - found)
    at = np.arange(rows), targets
    nll, base_nll = -found[at], -base[at]
    return Comparison(
        nll=nll,
        base_nll=base_nll,
        divergence=terms.sum(axis=1, where=base > -DEEPEST),
        change=np.exp(-nll) - np.exp(-base_nll),
        same_top=logits.argmax(axis=1) == numbers.argmax(axis=1),
    )


def compare_all(predictions: Predictions, words: Words, threads: Executor, vocabulary: int) -> Comparison:
    """Compare predictions with their saved rows, in slices that threads share."""

    def one(bounds: tuple[int, int]) -> Comparison:
        rows = slice(*bounds)
        return compare(predictions.logits(*bounds), words[rows], predictions.targets[rows])

    return join(list(threads.map(one, _slices(len(words), vocabulary))))


def pack_all(predictions: Predictions, threads: Executor, vocabulary: int) -> Words:
    """Round predictions to what is saved, in slices that threads share."""
    bounds = _slices(len(predictions.targets), vocabulary)
    return np.concatenate(list(threads.map(lambda one: pack_rows(predictions.logits(*one)), bounds)))


def _slices(rows: int, vocabulary: int) -> list[tuple[int, int]]:
    size = max(1, SLICE_VALUES // vocabulary)
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]


def join(parts: list[Comparison]) -> Comparison:
    """All values, one part's behind the other's."""
    names = [field.name for field in fields(Comparison)]
    return Comparison(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What llama-perplexity says of all positions so far, each with its standard error."""

    perplexity: Uncertain
    base_perplexity: Uncertain
    correlation: float  # of the two log-likelihoods
    log_ratio: Uncertain  # ln(PPL / base PPL)
    ratio: Uncertain
    difference: Uncertain  # PPL - base PPL
    divergence: Uncertain
    change: Uncertain
    change_rms: Uncertain
    same_top: Uncertain


def statistics_of(found: Comparison) -> Statistics:
    """Work all of it out."""
    count = len(found.nll)
    log, base_log = _mean(found.nll), _mean(found.base_nll)
    covariance = _covariance(found.nll, found.base_nll)
    ratio_error = _difference_error(log.error, base_log.error, covariance)
    log_ratio = Uncertain(log.value - base_log.value, ratio_error)
    perplexity, base = (Uncertain(math.exp(one.value), math.exp(one.value) * one.error) for one in (log, base_log))
    ratio = math.exp(log_ratio.value)
    both = log.error * base_log.error
    squares = _mean(np.square(found.change))
    rms = math.sqrt(squares.value)
    same = float(found.same_top.mean())
    return Statistics(
        perplexity=perplexity,
        base_perplexity=base,
        correlation=covariance / both if both else math.nan,
        log_ratio=log_ratio,
        ratio=Uncertain(ratio, ratio * ratio_error),
        difference=Uncertain(
            perplexity.value - base.value,
            _difference_error(perplexity.error, base.error, perplexity.value * base.value * covariance),
        ),
        divergence=_mean(found.divergence),
        change=_mean(found.change),
        change_rms=Uncertain(rms, 0.5 / rms * squares.error if rms else 0.0),
        same_top=Uncertain(same, math.sqrt(same * (1 - same) / (count - 1)) if count > 1 else 0.0),
    )


def _mean(values: Floats) -> Uncertain:
    mean = float(values.mean())
    variance = float(np.square(values).mean()) - mean * mean
    known = variance > 0 and len(values) > LEAST_COUNT
    return Uncertain(mean, math.sqrt(variance / (len(values) - 1)) if known else 0.0)


def _covariance(one: Floats, other: Floats) -> float:
    """Of the two means."""
    if len(one) < LEAST_COUNT:
        return 0.0
    return (float((one * other).mean()) - float(one.mean()) * float(other.mean())) / (len(one) - 1)


def _difference_error(one: float, other: float, covariance: float) -> float:
    return math.sqrt(max(0.0, one * one + other * other - 2 * covariance))
