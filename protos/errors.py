"""What can go wrong, by who is at fault.

    NumoeError
    +-- RequestError          the client's request; every kind names its gRPC status below
    |   +-- InvalidRequest        a field is out of range or does not fit the model       INVALID_ARGUMENT
    |   +-- QueueFull             more waiting requests than the queue holds              RESOURCE_EXHAUSTED
    |   +-- DeadlineExceeded      the request's deadline passed                           DEADLINE_EXCEEDED
    |   +-- RequestCancelled      the client went away or cancelled                       CANCELLED
    +-- SetupError            the operator's set-up: one line on stderr, exit code 2
    |   +-- ModelFileError        the GGUF file is damaged, hostile or inconsistent
    |   +-- UnsupportedModel      the file is sound, but this version cannot run it
    |   +-- PlanError             the model cannot be split over these workers, or does not fit
    |   +-- AddressInUse          a listening port is taken
    +-- ServiceError          our own failure: retry, restart
        +-- Unavailable           loading, draining, or restarting after a lost worker    UNAVAILABLE
        +-- WorkerLost            a worker process died or stopped answering              UNAVAILABLE

A message says what was found, what was expected and what to do. `reason` is the stable machine-readable name
that clients see in google.rpc.ErrorInfo.
"""

from __future__ import annotations


class NumoeError(Exception):
    """The root of all errors that are raised on purpose across a boundary of numoe."""

    reason = "INTERNAL"


class RequestError(NumoeError):
    """The client's request cannot be served as asked."""


class InvalidRequest(RequestError):
    """A field is out of range or does not fit the model.

    `field` is its path in the request, `problem` what is wrong with it; the message is both.
    """

    reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class QueueFull(RequestError):
    """The queue of waiting requests is full; `retry_seconds` estimates when a place is free."""

    reason = "QUEUE_FULL"

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class DeadlineExceeded(RequestError):
    """The request's deadline passed before it was complete."""

    reason = "DEADLINE_EXCEEDED"


class RequestCancelled(RequestError):
    """The client cancelled or disconnected."""

    reason = "CANCELLED"


class SetupError(NumoeError):
    """The operator's set-up is wrong: one line on stderr, exit code 2."""

    reason = "SETUP"


class ModelFileError(SetupError):
    """The GGUF file is damaged, hostile or inconsistent; `reason` names the kind of fault."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnsupportedModel(SetupError):
    """The file is sound, but this version cannot run what it holds."""

    reason = "UNSUPPORTED_MODEL"


class PlanError(SetupError):
    """The model cannot be split over these workers, or does not fit their memory."""

    reason = "PLAN"


class AddressInUse(SetupError):
    """A port to listen on is taken."""

    reason = "ADDRESS_IN_USE"


class ServiceError(NumoeError):
    """Our own failure: the client may retry."""


class Unavailable(ServiceError):
    """Loading, draining, or restarting after a lost worker."""

    reason = "UNAVAILABLE"


class WorkerLost(ServiceError):
    """A worker process died or stopped answering; every open request ends with this."""

    reason = "WORKER_LOST"
