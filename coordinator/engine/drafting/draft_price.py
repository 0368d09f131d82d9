"""How many guessed tokens a step runs behind a known one: as many as pay, by what steps were measured to take.

A step that runs guesses takes longer, as each of their tokens has its own experts read. The price of a guess is that
time, as a share of the step without; it is measured for each number of streams, as are the steps without, now and then.
What a guess brings is a token of the answer, if it is right and all before it were.

*Guarantees*: the same times give the same numbers; no guess is run before it is known what a step takes without; where
guesses cost too much, one step in TRUSTED_STEPS tries a single one anew.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_GUESSES = 8  # of one sequence in one step
LEAST_GAIN = 1.05  # times the tokens per second without: less may be what measuring is off by
TRIED_CHANCE = 0.5  # of the guess that is run to know what it takes
LEAST_PRICE = 0.02  # what costs nothing at all was measured wrong
TRUSTED_STEPS = 100  # before what was measured is measured anew
MEMORY = 0.7  # of means: the last three steps count most
MOST_CHANGE = 2.0  # of a known price by one step: it may have been slow for other reasons


@dataclass(slots=True)
class _Times:
    """Of steps of so many streams."""

    alone: float  # seconds, without guesses
    price: float | None = None  # None: not known
    with_guesses: int = 0  # steps since one without
    without: int = 0  # steps since one with


class DraftPrice:
    """Of one engine; used by its thread alone."""

    def __init__(self) -> None:
        self._times: dict[int, _Times] = {}  # by the number of streams

    def worth(self, chance: float, streams: int, most: int) -> int:
        """How many of up to `most` guesses to run for one of so many streams; `chance`: how likely each is right.

        0 where the next step shall measure what it takes without; where nobody knows the price, a single one.
        """
        times = self._times.get(streams)
        if times is None or times.with_guesses >= TRUSTED_STEPS:
            return 0
        if times.price is None:
            return min(most, 1) if chance > TRIED_CHANCE else 0
        return guesses_worth(chance, times.price, streams, most)

    def steps(self, guesses: int, streams: int) -> float:
        """What guesses beside so many streams take, in steps without any; where nobody knows, one each."""
        price = self._times[streams].price
        return guesses * (1.0 if price is None else price)

    def note(self, streams: int, guesses: int, seconds: float) -> None:
        """A step of so many streams and guesses, and of no prompt, took so long."""
        times = self._times.setdefault(streams, _Times(seconds))
        if guesses:
            price = (seconds / times.alone - 1) / guesses
            if times.price is not None:
                price = MEMORY * times.price + (1 - MEMORY) * min(price, MOST_CHANGE * times.price)
            times.price = max(price, LEAST_PRICE)
            times.with_guesses, times.without = times.with_guesses + 1, 0
            return
        times.alone = MEMORY * times.alone + (1 - MEMORY) * seconds
        times.with_guesses, times.without = 0, times.without + 1
        if times.without >= TRUSTED_STEPS:
            times.price = None


def guesses_worth(chance: float, price: float, streams: int, most: int) -> int:
    """How many of up to `most` guesses bring most tokens per second, all streams together.

    0 where that is hardly more than without.
    """
    tokens, seconds, best, worth = float(streams), 1.0, LEAST_GAIN * streams, 0
    right = 1.0
    for guesses in range(1, most + 1):
        right *= chance
        tokens, seconds = tokens + right, seconds + price
        if tokens / seconds > best:
            best, worth = tokens / seconds, guesses
    return worth
