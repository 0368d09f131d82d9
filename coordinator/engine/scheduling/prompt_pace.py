"""How many tokens of prompts a step may run beside streams, so that these notice little: a controller fed with times.

A step of decodes alone says what streams are used to; a step with prompts too, how much longer so many of their tokens
made it. Each of the latter corrects the number for the next one, by the ratio of what was allowed to what it took: so
nothing has to be known of the model or the machine, of which a few tokens more may cost as much as many (a prompt's
first tokens have all experts read). Now and then a step runs without prompts, to know again what it takes.

What steps without prompts leave is saved, up to SAVED_SECONDS, and spent by the next step with prompts: so a short one
that comes while others stream is run in one step, a pause of as much, and not in many that are each a little longer.
Where more prompts wait than streams run, as after a burst of requests, steps may take longer in that proportion: a
stream's pause is then worth as much as a first token.

*Guarantees*: the same times give the same numbers; where nobody streams prompts have whole steps; a prompt progresses
in one of two steps at least; over many steps prompts add no more than they may, and SAVED_SECONDS once.
"""

from __future__ import annotations

FEWEST_TOKENS = 4  # so that a prompt goes on; with 16 steps of four streams of the demo took 3.8 times as long, not 2
MOST_CHANGE = 2.0  # of the number by one step, up or down: a step may have been slow for other reasons
TRUSTED_STEPS = 100  # with prompts, before what decodes take alone is measured anew, at the price of a step in so many
SAVED_SECONDS = 0.5  # that are noticed in a stream, but hardly, and run 90 tokens of a prompt on two cores
MEMORY = 0.8  # of the mean of what decodes take alone: the last five count


class PromptPace:
    """Of one engine; used by its thread alone."""

    def __init__(self, slowdown: float, most_tokens: int) -> None:
        """`slowdown`: times as long as without prompts a step may take; 0: as long as it does."""
        self._slowdown, self._most = slowdown, most_tokens
        self._alone: dict[int, float] = {}  # seconds of a step without prompts, by the number of streams
        self._tokens = float(FEWEST_TOKENS)  # where no more prompts wait than streams run
        self._waiting = 1.0  # prompts for each stream, at least 1
        self._saved = 0.0  # seconds
        self._steps = 0  # with prompts, since one without

    def allowed(self, streams: int, prompts: int = 1) -> int:
        """Tokens of prompts, all together, in the next step; 0: it shall measure how long decodes take alone.

        `prompts`: how many there are, unfinished or waiting for their turn.
        """
        if not streams or not self._slowdown:
            return self._most
        self._waiting = max(1.0, prompts / streams)
        if streams not in self._alone or self._steps >= TRUSTED_STEPS:
            return 0
        return min(self._most, int(self._tokens * self._shares(streams)))

    def _shares(self, streams: int) -> float:
        """How many times as long as promised the prompts' part of the next step may take."""
        may = self._may(streams)
        return self._waiting + (self._saved / may if may else 0.0)

    def _may(self, streams: int) -> float:
        """Seconds that prompts may add to a step, where no more of them wait than streams run."""
        return max(self._slowdown - 1, 0.0) * self._alone[streams]

    def note(self, streams: int, prompt_tokens: int, seconds: float) -> None:
        """A step of so many streams and tokens of prompts took so long."""
        if not streams:
            return
        if not prompt_tokens:
            self._alone[streams] = MEMORY * self._alone.get(streams, seconds) + (1 - MEMORY) * seconds
            self._saved = min(self._saved + self._may(streams), SAVED_SECONDS)
            self._steps = 0
            return
        self._steps += 1
        if (alone := self._alone.get(streams)) is None:
            return
        may, shares, took, saved = self._may(streams), self._shares(streams), seconds - alone, self._saved
        change = shares * may / took if took > 0 else MOST_CHANGE
        fits = prompt_tokens * min(max(change, 1 / MOST_CHANGE), MOST_CHANGE)
        had_all = prompt_tokens >= int(self._tokens * shares)  # else the prompts had no more
        self._saved = 0.0 if had_all else max(saved - max(took - self._waiting * may, 0.0), 0.0)
        if fits < prompt_tokens or (had_all and not saved):  # what fits in a long step says little of short ones
            self._tokens = min(max(fits / shares, FEWEST_TOKENS), self._most)
