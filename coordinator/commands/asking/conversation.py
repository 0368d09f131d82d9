"""A conversation: what was said and answered, and how a person shortens it.

What was said and got no answer is not part of it, so that turns alternate as templates want, and can be asked again.
"""

from __future__ import annotations

from dataclasses import dataclass

from numoe.coordinator.commands.tables.figures import human_count
from numoe.v1.generation_pb2 import ChatMessage


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn of each."""

    said: str
    answer: str


class Conversation:
    """Whole exchanges, and perhaps one thing said that waits for its answer."""

    def __init__(self, system: str | None, said: str | None = None) -> None:
        """`system`: instructions, which stay whatever is forgotten; `said`: what is to be answered first."""
        self._system = system
        self._exchanges: list[Exchange] = []
        self._said = said
        self._replaced: Exchange | None = None

    def __len__(self) -> int:
        return len(self._exchanges)

    def messages(self) -> list[ChatMessage]:
        """All of it, for the model to answer what was said last."""
        messages = [ChatMessage(role="system", content=self._system)] if self._system else []
        for exchange in self._exchanges:
            messages.append(ChatMessage(role="user", content=exchange.said))
            messages.append(ChatMessage(role="assistant", content=exchange.answer))
        return [*messages, ChatMessage(role="user", content=self._said)] if self._said else messages

    def say(self, said: str) -> None:
        """Something new is to be answered."""
        self._said, self._replaced = said, None

    def say_again(self) -> bool:
        """What got no answer, or else what was said last, is to be answered anew; False: there is neither."""
        if self._said is None and self._exchanges:
            self._replaced = self._exchanges.pop()
            self._said = self._replaced.said
        return self._said is not None

    def keep(self, answer: str) -> None:
        """The answer to what was said."""
        assert self._said is not None
        self._exchanges.append(Exchange(self._said, answer))
        self._said = self._replaced = None

    def fail(self) -> None:
        """There is no answer: all is as before, and what was said can be asked again."""
        if self._replaced is not None:
            self._exchanges.append(self._replaced)
            self._said = self._replaced = None

    def undo(self) -> str:
        """Take back what got no answer, or else the last exchange; what was done, in a line."""
        if self._said is not None:
            said, self._said = self._said, None
        elif self._exchanges:
            said = self._exchanges.pop().said
        else:
            return "there is nothing to take back"
        return f"taken back: {said}"

    def drop(self, count: int = 1) -> str:
        """Forget the oldest exchanges; what was done, in a line."""
        dropped = self._exchanges[:count]
        self._exchanges = self._exchanges[count:]
        if not dropped:
            return "there is nothing to forget"
        return f"{human_count(len(dropped), 'turn')} forgotten, {len(self._exchanges)} left"

    def clear(self) -> str:
        """Forget all but the instructions; what was done, in a line."""
        self._exchanges.clear()
        self._said = None
        return "all forgotten"
