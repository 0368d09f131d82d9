"""Who asks what, and when: the same for the same seed, whatever is measured.

Lengths are drawn so that as many lie between 100 and 200 as between 200 and 400, as short requests are the more
frequent ones in use; times as of people who know nothing of each other (a Poisson process). Prompts begin with other
words each, so that no cache of prompts helps, and a word is about a token.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

WORDS = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "was", "on", "are", "as", "with", "they", "at", "be"),
    *("this", "from", "have", "or", "by", "one", "had", "not", "but", "what", "all", "were", "when", "we", "there"),
    *("can", "an", "your", "which", "their", "said", "if", "do", "will", "each", "about", "how", "up", "out", "them"),
    *("then", "she", "many", "some", "so", "these", "would", "other", "into", "has", "more", "her", "two", "like"),
)


@dataclass(frozen=True, slots=True)
class Mix:
    """What is asked, as a whole."""

    requests: int
    prompt_words: tuple[int, int]  # the fewest and the most
    answer_tokens: tuple[int, int]
    rate: float | None = None  # that come in a second, on average; None: whenever another one is over
    temperature: float = 1.0
    seed: int = 0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off


@dataclass(frozen=True, slots=True)
class Question:
    """What one asks."""

    number: int
    at_seconds: float  # since the start: not before
    prompt: str
    max_tokens: int
    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 1.0


def make_questions(mix: Mix) -> tuple[Question, ...]:
    """All of them, in the order in which they come."""
    source = random.Random(mix.seed)
    found, at = [], 0.0
    for number in range(mix.requests):
        words, tokens = (_length(source, bounds) for bounds in (mix.prompt_words, mix.answer_tokens))
        prompt = " ".join(source.choices(WORDS, k=words))
        seed = source.getrandbits(32)
        found.append(Question(number, at, prompt, tokens, mix.temperature, seed, mix.top_k, mix.top_p))
        if mix.rate is not None:
            at += source.expovariate(mix.rate)
    return tuple(found)


def _length(source: random.Random, bounds: tuple[int, int]) -> int:
    fewest, most = bounds
    return min(most, int(math.exp(source.uniform(math.log(fewest), math.log(most + 1)))))
