"""What a door over HTTP and the protocols that it speaks agree on: how a call is read, and how its answer is said.

    body --Dialect.read--> Call: questions --submit--> Answers --events--> Teller --> bytes

A teller makes bytes of events, whether they are a stream of server-sent events or, all at its end, one JSON object; the
door sends them, and knows of no protocol's words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from numoe.coordinator.api.answering import Answer, Question
from numoe.coordinator.api.askers import REQUEST_ID
from numoe.coordinator.api.failures import Failure
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.requests.events import Delta, Finished, PromptTokens
from numoe.protos.errors import InvalidRequest

Told = PromptTokens | Delta | Finished  # the events that answers are told by; the first where prompts are told, too


class Teller(Protocol):
    """Says one call's answers, which are numbered: those to the first question first."""

    def begin(self) -> bytes:
        """What is said before any event."""

    def add(self, number: int, event: Told) -> bytes:
        """What is said of an event of answer `number`."""

    def end(self) -> bytes:
        """What is said once all answers are finished."""

    def fail(self, failure: Failure, status: int) -> bytes:
        """What ends a stream that has begun, if an answer failed; `status` is what HTTP would have said before."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks, and how it wants it said."""

    questions: Sequence[Question]
    choices: int  # answers to each question
    streamed: bool  # as events while they come, or else whole
    tell: Callable[[Sequence[Answer]], Teller]
    in_body: Callable[[InvalidRequest], InvalidRequest]  # a fault, under the name that the field has in the body


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol over HTTP."""

    read: Callable[[bytes, str, ServedModel], Call]  # a body and the request's id; raises InvalidRequest
    refusal: Callable[[Failure, int], object]  # the JSON of a failure that ends in this status of HTTP
    ping: bytes  # what tells a client of a stream that its prompt is still being run
    id_headers: Sequence[str] = (REQUEST_ID,)  # in which clients look for the id of their call


def sse(data: bytes, event: str = "") -> bytes:
    """One server-sent event; `data` is a single line."""
    return (b"event: %s\n" % event.encode() if event else b"") + b"data: " + data + b"\n\n"
