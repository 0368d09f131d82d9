"""Asks all questions, each when its time has come, and notes when what came.

*Guarantees*: a question that nobody answers ends after its time; one that fails is counted, and harms no other. A
question that has a time of its own is waited for from that time on, however late it was sent: else a service that holds
us up would look fast.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from numoe.coordinator.measuring.load.questions import Question
from numoe.protos.errors import NumoeError

Hear = Callable[[], None]  # called for each piece of an answer as it comes


class AskFailed(NumoeError):
    """A question got no answer, or not a whole one; the message is the same for all that fail for the same reason."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the service counts them; None: it does not say."""

    prompt: int | None = None
    answer: int | None = None


class Target(Protocol):
    """What is asked."""

    async def ask(self, question: Question, hear: Hear) -> Usage:
        """Returns once the answer is complete. Raises AskFailed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a question; times in seconds since the start."""

    question: Question
    began: float
    pieces: tuple[float, ...]  # when each piece of the answer came
    ended: float
    usage: Usage
    error: str = ""  # "": it was answered

    @property
    def answer_tokens(self) -> int:
        """Where the service does not say, as many as there are pieces."""
        return len(self.pieces) if self.usage.answer is None else self.usage.answer


async def drive(
    questions: Sequence[Question],
    target: Target,
    most_open: int | None,
    timeout_seconds: float,
    on_end: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """The outcomes, in the order of the questions.

    Args:
        questions: to ask.
        target: whom.
        most_open: at once; None: as many as come.
        timeout_seconds: for each answer to be complete.
        on_end: called when one is over.
    """
    free = asyncio.Semaphore(len(questions) if most_open is None else most_open)
    start = time.monotonic()

    def now() -> float:
        return time.monotonic() - start

    async def ask(question: Question) -> Outcome:
        await asyncio.sleep(question.at_seconds - now())
        async with free:
            began, pieces, error, usage = (
                question.at_seconds if most_open is None else now(),
                list[float](),
                "",
                Usage(),
            )
            try:
                async with asyncio.timeout(timeout_seconds):
                    usage = await target.ask(question, lambda: pieces.append(now()))
            except AskFailed as failed:
                error = str(failed)
            except TimeoutError:
                error = f"not complete within {timeout_seconds:g} s"
            on_end()
            return Outcome(question, began, tuple(pieces), now(), usage, error)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(question)) for question in questions]
    return [task.result() for task in tasks]
