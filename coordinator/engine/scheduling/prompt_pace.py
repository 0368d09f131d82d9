"""How many tokens of prompts a step may run beside streams, so that these notice little: a controller fed with times.

A step of decodes alone says what streams are used to; a step with prompts too, how much longer so many of their tokens
made it. Each of the latter corrects the number for the next one, by the ratio of what was allowed to what it took: so
nothing has to be known of the model or the machine, of which a few tokens more may cost as much as many (a prompt's
first tokens have all experts read). Now and then a step runs without prompts, to know again what it takes.

*Guarantees*: the same times give the same numbers; where nobody streams prompts have whole steps; a prompt progresses
in one of two steps at least.
"""

from __future__ import annotations

FEWEST_TOKENS = 4  # so that a prompt goes on; with 16 steps of four streams of the demo took 3.8 times as long, not 2
MOST_CHANGE = 2.0  # of the number by one step, up or down: a step may have been slow for other reasons
TRUSTED_STEPS = 100  # with prompts, before what decodes take alone is measured anew, at the price of a step in so many
MEMORY = 0.8  # of the mean of what decodes take alone: the last five count


class PromptPace:
    """Of one engine; used by its thread alone."""

    def __init__(self, slowdown: float, most_tokens: int) -> None:
        """`slowdown`: times as long as without prompts a step may take; 0: as long as it does."""
        self._slowdown, self._most = slowdown, most_tokens
        self._alone: dict[int, float] = {}  # seconds of a step without prompts, by the number of streams
        self._tokens = float(FEWEST_TOKENS)
        self._steps = 0  # with prompts, since one without

    def allowed(self, streams: int) -> int:
        """Tokens of prompts, all together, in the next step; 0: it shall measure how long decodes take alone."""
        if not streams or not self._slowdown:
            return self._most
        if streams not in self._alone or self._steps >= TRUSTED_STEPS:
            return 0
        return min(self._most, int(self._tokens))

    def note(self, streams: int, prompt_tokens: int, seconds: float) -> None:
        """A step of so many streams and tokens of prompts took so long."""
        if not streams:
            return
        if not prompt_tokens:
            self._alone[streams] = MEMORY * self._alone.get(streams, seconds) + (1 - MEMORY) * seconds
            self._steps = 0
            return
        self._steps += 1
        if (alone := self._alone.get(streams)) is None:
            return
        may, took = (self._slowdown - 1) * alone, seconds - alone
        fits = prompt_tokens * min(max(may / took if took > 0 else MOST_CHANGE, 1 / MOST_CHANGE), MOST_CHANGE)
        if fits < prompt_tokens or prompt_tokens >= int(self._tokens):  # else the prompts had no more
            self._tokens = min(max(fits, FEWEST_TOKENS), self._most)
