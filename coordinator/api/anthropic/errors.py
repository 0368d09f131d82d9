"""How a failure is said in Anthropic's API: {"type": "error", "error": {"type", "message"}, "request_id"}."""

from __future__ import annotations

from numoe.coordinator.api.askers import REQUEST_ID
from numoe.coordinator.api.failures import Failure
from numoe.coordinator.requests.constraint import FIELD
from numoe.protos.errors import InvalidRequest

ID_HEADERS = ("request-id", REQUEST_ID)  # Anthropic's clients look for the first alone
_TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    421: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def refusal(failure: Failure, status: int) -> dict[str, object]:
    """The body of an answer that tells of a failure; agents know by its beginning that a prompt does not fit."""
    message = failure.message
    if failure.context_tokens is not None:
        most = failure.context_tokens - 1
        message = f"prompt is too long: {failure.prompt_tokens} tokens > {most} maximum, counted until then; {message}"
    error = {"type": _TYPES.get(status, "api_error"), "message": message}
    return {"type": "error", "error": error, "request_id": failure.request_id or None}


def in_body(error: InvalidRequest) -> InvalidRequest:
    """The same fault under the name that the field has in a body."""
    field = error.field.removeprefix("sampling.")
    for ours, theirs in (
        ("prompt", "messages"),
        ("stop", "stop_sequences"),
        ("thinking_budget", "thinking.budget_tokens"),
    ):
        if field == ours or field.startswith(f"{ours}["):
            field = theirs + field.removeprefix(ours)
    if field.partition(".")[0] == FIELD:
        field = "output_config.format"
    return error.named(field)
