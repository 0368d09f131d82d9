"""Guesses are run as far as they pay, on machines of which nobody knows before what a guess takes."""

from __future__ import annotations

import pytest

from numoe.coordinator.engine.drafting.draft_price import (
    LEAST_GAIN,
    MOST_GUESSES,
    TRUSTED_STEPS,
    DraftPrice,
    guesses_worth,
)

ALONE = 0.02


def run(price: DraftPrice, real: float, chance: float, streams: int, steps: int) -> tuple[list[int], float]:
    """So many steps of a stream that repeats itself; how many guesses each had, and what they took, of all alone."""
    told, tokens, seconds = list[int](), 0.0, 0.0
    for _ in range(steps):
        guesses = price.worth(chance, streams, MOST_GUESSES)
        took = ALONE * (1 + real * guesses)
        price.note(streams, guesses, took)
        told.append(guesses)
        tokens += streams + sum(chance**number for number in range(1, guesses + 1))
        seconds += took
    return told, tokens / streams * ALONE / seconds


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("chance", [0.8, 0.95, 1.0])
@pytest.mark.parametrize("real", [0.03, 0.2, 0.5, 0.9, 2.0])
def test_a_measured_price_has_as_many_guesses_run_as_bring_most(real: float, chance: float, streams: int) -> None:
    price = DraftPrice()
    run(price, real, 1.0, streams, 30)
    told, gain = run(price, real, chance, streams, 4 * TRUSTED_STEPS)
    rates = [
        (streams + sum(chance**number for number in range(1, guesses + 1))) / streams / (1 + real * guesses)
        for guesses in range(MOST_GUESSES + 1)
    ]
    best = max(rates) if max(rates) > LEAST_GAIN else 1.0
    assert gain > 0.97 * best
    assert told.count(0) > 0  # steps alone are measured now and then


def test_nothing_is_guessed_before_it_is_known_what_a_step_takes() -> None:
    price = DraftPrice()
    assert price.worth(1.0, 3, MOST_GUESSES) == 0
    price.note(3, 0, ALONE)
    assert price.worth(1.0, 3, MOST_GUESSES) == 1
    assert price.worth(1.0, 2, MOST_GUESSES) == 0


def test_what_a_slow_step_says_is_forgotten_in_time() -> None:
    price = DraftPrice()
    price.note(1, 0, ALONE)
    price.note(1, 1, 100 * ALONE)
    for _ in range(TRUSTED_STEPS):
        assert price.worth(1.0, 1, MOST_GUESSES) == 0
        price.note(1, 0, ALONE)
    assert price.worth(1.0, 1, MOST_GUESSES) == 1


def test_a_chance_that_hardly_pays_is_left() -> None:
    assert guesses_worth(0.5, 0.5, 1, MOST_GUESSES) == 0
    assert guesses_worth(0.0, 0.0, 1, MOST_GUESSES) == 0
    assert guesses_worth(1.0, 0.02, 1, MOST_GUESSES) == MOST_GUESSES
    assert guesses_worth(1.0, 0.02, 1, 3) == 3
