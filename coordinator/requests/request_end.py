"""How a request ended, for the log and for traces: who asked, what became of it, where its time went.

It holds nothing of what was asked or answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from numoe.coordinator.requests.events import Failed, Finished, Timings
from numoe.coordinator.requests.request import GenerationRequest
from numoe.protos.errors import NumoeError, ServiceError
from numoe.protos.messages import Sampling
from numoe.protos.trace_context import TraceContext


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks what, by which names the log and traces know it."""

    request_id: str
    client: str = ""  # as the door knows it; "": unknown
    method: str = ""  # that was called, in the door's words
    trace: TraceContext | None = None  # None: the client traces nothing
    key: str = ""  # the name of the key that he showed; "": nobody is asked for keys


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """One request, once it is over; all but the first five fields are of an accepted one."""

    asker: Asker
    outcome: str  # a finish reason, or the stable name of an error
    ended_at: float  # Unix time, seconds
    seconds: float  # since it came
    refused_field: str | None = (
        None  # refused before it was queued, for this field; "": for none; None: it was accepted
    )
    error: str = ""  # what failed on our side; "": nothing
    prompt_tokens: int = 0
    generated_tokens: int = 0
    timings: Timings = field(default_factory=lambda: Timings(0.0, 0.0, 0.0, 0.0, 0.0))  # of the parts that it came to
    parts: int = 0  # it came to: 1 queue, 2 prefill, 3 decode
    mean_experts: float | None = None  # run per token and layer; None: no token was run, or the model has none
    saved_bytes: int = 0  # of experts left out, counted for each token as if it were alone
    cached_tokens: int = 0  # of the prompt, that had not to be run
    drafted_tokens: int = 0  # that were run before they were known
    accepted_tokens: int = 0  # of those, part of the answer
    max_tokens: int | None = None  # that it asked for
    sampling: Sampling | None = None

    @property
    def first_token_seconds(self) -> float | None:
        """From its arrival to its first token; None: there was none."""
        timings = self.timings
        return (timings.queue_milliseconds + timings.prefill_milliseconds) / 1e3 if self.generated_tokens else None


Report = Callable[[RequestEnd], None]


def report_to_nobody(end: RequestEnd) -> None:
    """Nobody wants to know how requests end."""


def asker_of(request: GenerationRequest) -> Asker:
    """Who asks it."""
    return Asker(request.request_id, request.client, request.method, request.trace, request.key)


def outcome_of(event: Finished | Failed) -> str:
    """How a request ended, in one word that log, metrics and traces share."""
    return event.reason.value if isinstance(event, Finished) else name_of(event.error)


def name_of(error: NumoeError | type[NumoeError]) -> str:
    """The stable name of an error, as such a word."""
    return error.reason.lower()


def failure_of(event: Finished | Failed) -> str:
    """What failed on our side; "": nothing."""
    return str(event.error) if isinstance(event, Failed) and isinstance(event.error, ServiceError) else ""
