"""Reads the parts of one answer from its text, as that comes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from types import MappingProxyType

from numoe.model.chat.parts import AnswerPart, CallArguments, CallBegins, Content, Reasoning
from numoe.model.chat.stages import CallFormat, Markers, Reading, Saying, Stage, Start, Thinking


class Beginning(Enum):
    """Where an answer begins."""

    ANEW = auto()  # perhaps with a thought
    AT_THOUGHT = auto()  # which the prompt has opened
    IN_THOUGHT = auto()  # which the prompt ends with
    IN_CONTENT = auto()  # which the prompt ends with


_FIRST_STAGES: Mapping[Beginning, Stage] = MappingProxyType(
    {
        Beginning.ANEW: Start(),
        Beginning.AT_THOUGHT: Thinking(),
        Beginning.IN_THOUGHT: Thinking(begun=True),
        Beginning.IN_CONTENT: Saying(begun=True),
    }
)


class AnswerReader:
    """The reader of one answer. The parts are the same however its text is cut, but for where theirs is."""

    __slots__ = ("_held", "_parallel_calls", "_reading", "_stage", "calls")

    def __init__(
        self,
        thought: Markers | None,
        form: CallFormat | None,
        tools: Mapping[str, Mapping[str, object]],
        *,
        beginning: Beginning = Beginning.ANEW,
        parallel_calls: bool = True,
        new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}",
    ) -> None:
        """Read an answer by what encloses thoughts and calls in it; None: there are none.

        Args:
            thought: what encloses thoughts.
            form: how tools are called.
            tools: the schema of each function's parameters.
            beginning: where the answer begins.
            parallel_calls: whether there may be more than one call; else the answer is over with the first.
            new_id: makes the ids of calls.
        """
        self._reading = Reading(thought, form if tools else None, tools, new_id)
        self._stage: Stage = _FIRST_STAGES[beginning]
        self._parallel_calls = parallel_calls
        self._held = ""
        self.calls = 0  # that have begun

    @property
    def over(self) -> bool:
        """Whether the answer ends here, whatever else the model writes: with its only call."""
        return not self._parallel_calls and self._stage.calls > 0

    def push(self, text: str) -> list[AnswerPart]:
        """What is certain after more text."""
        return self._read(text, ends=False)

    def finish(self) -> list[AnswerPart]:
        """The rest, once there is no more text."""
        return self._read("", ends=True)

    def _read(self, text: str, *, ends: bool) -> list[AnswerPart]:
        self._held += text
        parts: list[AnswerPart] = []
        while not self.over:
            step = self._stage.read(self._held, self._reading, ends=ends)
            parts += step.parts
            self._held = step.rest
            if step.following is None:
                break
            self._stage = step.following
        if self.over:
            self._held = ""
        self.calls += sum(isinstance(part, CallBegins) for part in parts)
        return list(_joined(parts))


def _joined(parts: Iterable[AnswerPart]) -> Iterable[AnswerPart]:
    """Parts with those put together that follow each other and are of one kind."""
    last: AnswerPart | None = None
    for part in parts:
        match last, part:
            case (Content(before), Content(text)):
                last = Content(before + text)
            case (Reasoning(before), Reasoning(text)):
                last = Reasoning(before + text)
            case (CallArguments(index, before), CallArguments(number, text)) if index == number:
                last = CallArguments(index, before + text)
            case _:
                if last is not None:
                    yield last
                last = part
    if last is not None:
        yield last
