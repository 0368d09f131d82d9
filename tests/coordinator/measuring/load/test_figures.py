"""Figures of made-up outcomes, against what NumPy and arithmetic say."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from numoe.coordinator.measuring.load.driving import Outcome, Usage
from numoe.coordinator.measuring.load.figures import PERCENTILES, figures_of
from numoe.coordinator.measuring.load.questions import Mix, Question, make_questions

QUESTION = Question(0, 0.0, "", 1, 0.0, 0)


def outcome(began: float, *pieces: float, usage: Usage = Usage(), error: str = "") -> Outcome:  # noqa: B008  # frozen
    return Outcome(QUESTION, began, pieces, pieces[-1] + 1 if pieces else began, usage, error)


def test_throughput_and_waits_are_of_those_that_were_answered() -> None:
    figures = figures_of(
        [
            outcome(0.0, 2.0, 3.0, 5.0, usage=Usage(10, 30)),
            outcome(1.0, 2.0, usage=Usage()),
            outcome(0.0, 9.0, error="broke"),
            outcome(0.0, error="broke"),
        ]
    )
    assert (figures.requests, figures.errors, figures.seconds) == (2, {"broke": 2}, 10.0)
    assert (figures.prompt_tokens, figures.answer_tokens) == (10, 31)
    assert (figures.answer_tokens_per_second, figures.requests_per_second) == (3.1, 0.2)
    assert (figures.first_token.mean, figures.first_token.longest) == (1.5, 2.0)
    assert (figures.between_tokens.mean, figures.between_tokens.longest) == (1.5, 2.0)
    assert (figures.whole.mean, figures.whole.longest) == (4.0, 6.0)


@pytest.mark.parametrize("count", [1, 2, 10, 99, 100, 101])
def test_percentiles_are_values_that_occurred(count: int) -> None:
    source = random.Random(count)
    waits = [source.random() for _ in range(count)]
    figures = figures_of([outcome(0.0, wait) for wait in waits])
    expected = {percent: np.percentile(waits, percent, method="inverted_cdf") for percent in PERCENTILES}
    assert dict(figures.first_token.percentiles) == expected


def test_where_nobody_was_answered_there_are_no_waits() -> None:
    figures = figures_of([outcome(1.0, error="refused")])
    assert (figures.requests, figures.answer_tokens_per_second) == (0, 0.0)
    assert math.isnan(figures.first_token.mean)


def test_the_same_seed_asks_the_same_and_another_something_else() -> None:
    mix = Mix(40, (4, 64), (2, 8), rate=10.0, seed=3)
    questions = make_questions(mix)
    assert questions == make_questions(mix)
    assert questions != make_questions(Mix(40, (4, 64), (2, 8), rate=10.0, seed=4))
    assert len({one.prompt for one in questions}) == 40


def test_lengths_and_times_are_as_asked_for() -> None:
    questions = make_questions(Mix(20_000, (4, 64), (1, 1), rate=50.0))
    lengths = [len(one.prompt.split()) for one in questions]
    assert (min(lengths), max(lengths)) == (4, 64)
    # ln(16 / 4) of ln(65 / 4) parts lie below 16 words; sampled 20,000 times that is known to 0.015, at 4 deviations.
    assert np.mean(np.less(lengths, 16)) == pytest.approx(math.log(4) / math.log(65 / 4), abs=0.015)
    assert {one.max_tokens for one in questions} == {1}
    gaps = np.diff([one.at_seconds for one in questions])
    # Of exponential gaps mean and deviation are alike; 4 deviations of either over so many are 3 and 6 %.
    assert np.mean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert np.std(gaps) == pytest.approx(1 / 50, rel=0.06)
    assert make_questions(Mix(3, (1, 1), (1, 1)))[-1].at_seconds == 0.0
