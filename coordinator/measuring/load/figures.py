"""What outcomes come to: throughput, and how long was waited, by percentiles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from numoe.coordinator.measuring.load.driving import Outcome

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Waits:
    """Of one kind, in seconds; NaN where nobody waited."""

    mean: float
    percentiles: Mapping[int, float]
    longest: float


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """Of all that were answered, unless it says otherwise."""

    requests: int
    errors: Mapping[str, int]  # how many questions got no answer, by the reason
    seconds: float  # from the start to the last end
    prompt_tokens: int  # as the service counts them; 0 where it does not
    answer_tokens: int
    first_token: Waits  # from the question to the first piece of its answer
    between_tokens: Waits  # from one piece to the next
    whole: Waits  # from the question to the end of its answer

    @property
    def answer_tokens_per_second(self) -> float:
        """Of all together."""
        return self.answer_tokens / self.seconds

    @property
    def requests_per_second(self) -> float:
        """That were answered."""
        return self.requests / self.seconds


def figures_of(outcomes: Sequence[Outcome]) -> LoadFigures:
    """Of at least one outcome."""
    answered = [one for one in outcomes if not one.error]
    return LoadFigures(
        requests=len(answered),
        errors=Counter(one.error for one in outcomes if one.error),
        seconds=max(one.ended for one in outcomes),
        prompt_tokens=sum(one.usage.prompt or 0 for one in answered),
        answer_tokens=sum(one.answer_tokens for one in answered),
        first_token=_waits(one.pieces[0] - one.began for one in answered if one.pieces),
        between_tokens=_waits(later - earlier for one in answered for earlier, later in pairwise(one.pieces)),
        whole=_waits(one.ended - one.began for one in answered),
    )


def _waits(seconds: Iterable[float]) -> Waits:
    found = sorted(seconds)
    if not found:
        return Waits(math.nan, dict.fromkeys(PERCENTILES, math.nan), math.nan)
    # The smallest that is not exceeded by so many percent of all.
    percentiles = {percent: found[math.ceil(percent / 100 * len(found)) - 1] for percent in PERCENTILES}
    return Waits(sum(found) / len(found), percentiles, found[-1])
