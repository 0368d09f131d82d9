"""What the client of a request is still to be told: put together while tokens are taken, told while workers compute."""

from __future__ import annotations

from dataclasses import dataclass

from numoe.coordinator.requests.answer_text import AnswerText
from numoe.coordinator.requests.events import Failed, Finished, Resumed
from numoe.coordinator.requests.generation import Mailbox
from numoe.protos.messages import Draw


@dataclass(slots=True)
class _Token:
    """One that was drawn."""

    draw: Draw
    shown: bool  # whether it is part of the text
    may_stop: bool  # whether a stop string may end with it
    text: str | None = None  # None: not made yet


class Owed:
    """Of one request; used by the engine's thread alone."""

    __slots__ = ("_progress", "_prompt", "_resumed", "_text", "_tokens")

    def __init__(self, text: AnswerText) -> None:
        self._text = text
        self._tokens: list[_Token] = []
        self._prompt: list[Draw] = []
        self._progress: tuple[int, int] | None = None
        self._resumed: Resumed | None = None

    def note_progress(self, done: int, total: int) -> None:
        """So many of the prompt's tokens were run."""
        self._progress = done, total

    def note_resumed(self, event: Resumed) -> None:
        self._resumed = event

    def add_prompt(self, draws: tuple[Draw, ...]) -> None:
        """Tokens of the prompt of which is known now how likely they were."""
        self._prompt += draws

    def add(self, draw: Draw, *, shown: bool, may_stop: bool) -> None:
        """One more token was drawn."""
        self._tokens.append(_Token(draw, shown, may_stop))

    def find_stop(self, *, ends: bool) -> str | None:
        """The stop string that the token added last completes, whose text is made for that; `ends`: it is the last."""
        self._tokens[-1].text = self._make_text(self._tokens[-1], ends=ends)
        return self._text.stop_match

    def tell(self, mailbox: Mailbox, outcome: Finished | Failed | None) -> None:
        """Puts all of it into the client's mailbox."""
        if self._resumed is not None:
            mailbox.put_resumed(self._resumed)
        if self._progress is not None:
            mailbox.put_progress(*self._progress)
        if self._prompt:
            mailbox.put_prompt_tokens(self._prompt)
        for token in self._tokens:
            if token.text is None:
                last = token is self._tokens[-1]
                token.text = self._make_text(token, ends=last and isinstance(outcome, Finished))
            mailbox.put_delta(token.text, token.draw)
        if outcome is not None:
            mailbox.put_terminal(outcome)
        self._resumed, self._progress, self._prompt, self._tokens = None, None, [], []

    def _make_text(self, token: _Token, *, ends: bool) -> str:
        """What the client sees of one more token, and of all that was held back if the answer `ends` with it."""
        text = self._text.push(token.draw.token_id, may_stop=token.may_stop) if token.shown else ""
        return text + self._text.finish() if ends else text
