"""Answers read in pieces, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from numoe.model.chat.parts import AnswerPart, CallArguments, CallBegins, Content, Reasoning
from numoe.model.chat.reader import AnswerReader, Beginning
from numoe.model.chat.stages import CallFormat, Markers

THINK = Markers("<think>", "</think>")
TOOLS = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": ["string", "null"]}},
    },
    "now": {},
}


def read_pieces(
    pieces: Iterable[str],
    form: CallFormat | None = None,
    *,
    thought: Markers | None = THINK,
    beginning: Beginning = Beginning.ANEW,
    parallel_calls: bool = True,
) -> list[AnswerPart]:
    """The parts of an answer whose text comes in these pieces, each as long as may be; ids are numbers."""
    ids = count()
    reader = AnswerReader(
        thought,
        form,
        TOOLS,
        beginning=beginning,
        parallel_calls=parallel_calls,
        new_id=lambda: str(next(ids)),
    )
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    return list(joined(parts))


def joined(parts: Iterable[AnswerPart]) -> Iterable[AnswerPart]:
    """Parts with those put together that a cut of the text has divided."""
    texts: list[str] = []
    last: AnswerPart | None = None
    for part in [*parts, None]:
        if last is not None and (part is None or _kind(part) != _kind(last)):
            yield _with_text(last, "".join(texts))
            texts = []
        if part is not None:
            texts.append("" if isinstance(part, CallBegins) else part.text)
        last = part


def _kind(part: AnswerPart) -> tuple[type, int]:
    return type(part), part.index if isinstance(part, CallBegins | CallArguments) else 0


def _with_text(part: AnswerPart, text: str) -> AnswerPart:
    match part:
        case Content():
            return Content(text)
        case Reasoning():
            return Reasoning(text)
        case CallArguments():
            return CallArguments(part.index, text)
    return part
