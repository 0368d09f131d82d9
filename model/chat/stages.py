"""How the text of an answer is read, stage by stage: what may be a thought, a thought, content, a tool's call.

A stage looks at all the text that is not read yet and says what is certain of it. What it says of a text does not
change when more follows, so that an answer reads the same however its text is cut.

*Guarantees*: at most HELD_CHARACTERS are held back, and what is held back comes out as content if it is no call after
all. Blanks around thoughts and calls are layout, and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from numoe.model.chat.parts import AnswerPart, Content, Reasoning

HELD_CHARACTERS = 1 << 16  # as many as a schema's bytes: of a call whose arguments cannot be passed on as they come
MOST_BLANKS = 256  # that are held back, as a marker may follow; models loop over blanks
NAME_CHARACTERS = 128  # of a function; as many as a client may give


@dataclass(frozen=True, slots=True)
class Markers:
    """What encloses a thought."""

    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class Step:
    """What a stage read."""

    parts: Sequence[AnswerPart]
    rest: str  # of the text, which is not read yet
    following: Stage | None = None  # which goes on with the rest; None: the same, once there is more text


class Stage(Protocol):
    """One way to read text."""

    @property
    def calls(self) -> int:
        """How many calls are complete."""

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Read what is certain of a text; all of it if the answer `ends` with it."""


class CallFormat(Protocol):
    """How a model writes the call of a tool."""

    @property
    def openings(self) -> Sequence[str]:
        """Texts with which calls begin."""

    @property
    def bare(self) -> bool:
        """Whether a call may also be all of an answer, without an opening."""

    @property
    def markers(self) -> Sequence[str]:
        """Texts that may be control tokens, and have to be seen all the same."""

    def begin(self, before: str, opening: str, calls: int) -> Stage:
        """What reads a call behind its opening, "" for a bare one; `before` are the blanks before it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer is read by."""

    thought: Markers | None
    format: CallFormat | None  # None: no tool can be called
    tools: Mapping[str, Mapping[str, object]]  # the schema of each function's parameters
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of an answer, which may be a thought."""

    calls: int = field(default=0, init=False)

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Look whether a thought begins."""
        if how.thought is None:
            return Step((), text, Saying())
        opening, body = how.thought.opening, text.lstrip()
        if len(text) - len(body) <= MOST_BLANKS:
            if body.startswith(opening):
                return Step((), body.removeprefix(opening), Thinking())
            if opening.startswith(body) and not ends:
                return Step((), text)
        return Step((), text, Saying())


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thought, up to what closes it."""

    begun: bool = False
    calls: int = field(default=0, init=False)

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Pass on what is thought."""
        assert how.thought is not None
        if not self.begun:
            text = text.lstrip()
        said, found, rest = text.partition(how.thought.closing)
        if found:
            return Step(_reasoning(without_blanks(said)), rest, Saying(after_marker=True))
        cut = len(text) if ends else certain_length(text, (how.thought.closing,))
        begun = replace(self, begun=True) if cut and not self.begun else None
        return Step(_reasoning(text[:cut]), text[cut:], begun)


@dataclass(frozen=True, slots=True)
class Saying:
    """Content, up to the next call."""

    calls: int = 0
    after_marker: bool = False  # so that blanks are layout
    begun: bool = False

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Pass on what is said."""
        if self.after_marker:
            text = text.lstrip()
            return Step((), text, replace(self, after_marker=False) if text else None)
        if how.format is None:
            return Step(content(text), "")
        if how.format.bare and not self.begun:
            body = text.lstrip()
            if not body and not ends and len(text) <= MOST_BLANKS:
                return Step((), text)
            if body.startswith("{") and len(text) - len(body) <= MOST_BLANKS:
                return Step((), body, how.format.begin(text[: len(text) - len(body)], "", self.calls))
        return self._read_on(text, how.format, ends=ends)

    def _read_on(self, text: str, form: CallFormat, *, ends: bool) -> Step:
        places = [(text.find(opening), opening) for opening in form.openings]
        place, opening = min(((at, opening) for at, opening in places if at >= 0), default=(-1, ""))
        if place >= 0:
            said = without_blanks(text[:place])
            return Step(
                content(said), text[place + len(opening) :], form.begin(text[len(said) : place], opening, self.calls)
            )
        cut = len(text) if ends else certain_length(text, form.openings)
        begun = replace(self, begun=True) if cut and not self.begun else None
        return Step(content(text[:cut]), text[cut:], begun)


@dataclass(frozen=True, slots=True)
class Closing:
    """The end of a call, which is its closing marker if there is one; other text is content."""

    marker: str
    calls: int

    def read(self, text: str, how: Reading, *, ends: bool) -> Step:
        """Pass over the marker."""
        body = text.lstrip()
        if not body.startswith(self.marker) and self.marker.startswith(body):
            return Step((), "" if ends else body)
        return Step((), body.removeprefix(self.marker), Saying(self.calls, after_marker=True))


def content(text: str) -> Sequence[AnswerPart]:
    """Text as content, if there is any."""
    return (Content(text),) if text else ()


def broken(before: str, rest: str, calls: int) -> Step:
    """What is no call after all: `before` is content, and so may be the rest."""
    return Step(content(before), rest, Saying(calls, begun=True))


def without_blanks(text: str) -> str:
    """A text without the blanks at its end, but no more of them than are held back."""
    stripped = text.rstrip()
    return text[: max(len(stripped), len(text) - MOST_BLANKS)]


def certain_length(text: str, markers: Sequence[str]) -> int:
    """The length of a text without the end that may become one of the markers, and the blanks before that."""
    cut = min(len(text) - overlap(text, marker) for marker in markers)
    return len(without_blanks(text[:cut]))


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of a text begin a marker."""
    return next((size for size in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:size])), 0)


def _reasoning(text: str) -> Sequence[AnswerPart]:
    return (Reasoning(text),) if text else ()
