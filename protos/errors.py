"""What can go wrong, by who is at fault.

    NumoeError                                                                            INTERNAL
    +-- RequestError          the client's request                                        INTERNAL
    |   +-- InvalidRequest        a field is out of range or does not fit the model       INVALID_ARGUMENT
    |   |   +-- PromptTooLong       the prompt has more tokens than the context         INVALID_ARGUMENT
    |   +-- ModelNotFound         another model than the one that is served is named      NOT_FOUND
    |   +-- Unauthenticated       no key, or one that is not good                         UNAUTHENTICATED
    |   +-- PermissionDenied      the key is good for other things only                   PERMISSION_DENIED
    |   +-- QueueFull             more waiting requests than the queue holds              RESOURCE_EXHAUSTED
    |   +-- DeadlineExceeded      the request's deadline passed                           DEADLINE_EXCEEDED
    |   +-- RequestCancelled      the client went away or cancelled                       CANCELLED
    |   +-- RequestAborted        an operator ended it                                    CANCELLED
    +-- SetupError            the operator's set-up: one line on stderr, exit code 2      INTERNAL
    |   +-- ModelFileError        the GGUF file is damaged, hostile or inconsistent       INTERNAL
    |   +-- UnsupportedModel      the file is sound, but this version cannot run it       FAILED_PRECONDITION
    |   +-- PlanError             the model cannot be split, or its experts moved, so     FAILED_PRECONDITION
    |   +-- AddressInUse          a listening port is taken                               INTERNAL
    +-- ServiceError          our own failure: retry, restart                             UNAVAILABLE
        +-- Unavailable           loading, draining, or restarting after a lost worker    UNAVAILABLE
        +-- WorkerLost            a worker process died or stopped answering              UNAVAILABLE
        |   +-- HostsChanged          an operator has other hosts serve                      UNAVAILABLE
        +-- HostsMissing          the hosts that are left cannot serve the model          UNAVAILABLE
        +-- LogitsNotFinite       the model computed no numbers for one request           DATA_LOSS

The last column is the status of a call that ends with it. INTERNAL: no client is told more of it than an incident,
under which the log has the rest; such errors are met by whoever starts the service, and not raised in a call.
A message says what was found, what was expected and what to do. `reason` is the stable machine-readable name
that clients see in google.rpc.ErrorInfo.
"""

from __future__ import annotations


class NumoeError(Exception):
    """The root of all errors that are raised on purpose across a boundary of numoe."""

    reason = "INTERNAL"

    def __reduce__(self) -> tuple[object, ...]:
        """For pickling: as it is, without the arguments of its class's own __init__, which it does not keep."""
        return _restored, (type(self), self.args), vars(self)


def _restored(kind: type[NumoeError], arguments: tuple[object, ...]) -> NumoeError:
    return kind.__new__(kind, *arguments)


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

    def named(self, field: str) -> InvalidRequest:
        """The same fault under another name of its field."""
        return InvalidRequest(field, self.problem)


class PromptTooLong(InvalidRequest):
    """A prompt does not fit the context; clients that know it by its reason shorten the conversation and go on."""

    reason = "CONTEXT_LENGTH_EXCEEDED"

    def __init__(self, field: str, problem: str, tokens: int, context_tokens: int) -> None:
        """`tokens`: what it has at least, as counting ends where it is too long."""
        super().__init__(field, problem)
        self.tokens = tokens
        self.context_tokens = context_tokens

    def named(self, field: str) -> InvalidRequest:
        return PromptTooLong(field, self.problem, self.tokens, self.context_tokens)


class ModelNotFound(RequestError):
    """Another model than the one that is served is named, in a protocol that tells this from a field out of range."""

    reason = "MODEL_NOT_FOUND"


class Unauthenticated(RequestError):
    """Keys are asked for, and there is none with the request, or one that is not good."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(RequestError):
    """The key is good, but not for what was asked."""

    reason = "PERMISSION_DENIED"


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


class RequestAborted(RequestError):
    """An operator ended the request."""

    reason = "ABORTED"


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
    """The model cannot be split over these workers, does not fit their memory, or has no experts to move."""

    reason = "PLAN"


class AddressInUse(SetupError):
    """A port to listen on is taken."""

    reason = "ADDRESS_IN_USE"


class ServiceError(NumoeError):
    """Our own failure: the client may retry."""

    reason = "SERVICE_FAILED"


class Unavailable(ServiceError):
    """Loading, draining, or restarting after a lost worker."""

    reason = "UNAVAILABLE"


class WorkerLost(ServiceError):
    """A worker process died or stopped answering; a request at which that happens again and again ends with this.

    `workers` are the numbers of those that died; none: nobody knows which, or all were ended.
    """

    reason = "WORKER_LOST"

    def __init__(self, message: str, workers: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.workers = workers


class HostsChanged(WorkerLost):
    """Nobody was lost: an operator has the layers shared out over other hosts."""


class HostsMissing(ServiceError):
    """A host is gone, and those that are left cannot serve the model; requests end with this until one comes back."""

    reason = "HOSTS_MISSING"


class LogitsNotFinite(ServiceError):
    """The model computed infinities or no numbers for one request, which ends with this; all others go on."""

    reason = "LOGITS_NOT_FINITE"
