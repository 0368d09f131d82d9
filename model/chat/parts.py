"""What an answer consists of, piece by piece, as it is read from the model's text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """What the assistant says."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thinks before that."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A tool is called; its arguments follow."""

    index: int  # of the call in the answer, from 0
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments; all of it together may be cut off where the answer is."""

    index: int
    text: str


AnswerPart = Content | Reasoning | CallBegins | CallArguments
