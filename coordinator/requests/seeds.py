"""Seeds of the several answers to one question."""

from __future__ import annotations

_MASK = 2**64 - 1


def seed_of_answer(seed: int, answer: int) -> int:
    """The seed of the `answer`-th answer, from 0, to a question of that seed; the first one's is the question's own.

    So that n answers are n requests, and any of them comes out the same when it is asked for alone. The others are
    splitmix64 (Steele et al. 2014) of the seed and their number: neighbours have nothing in common.
    """
    if answer == 0:
        return seed
    value = (seed + answer * 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
