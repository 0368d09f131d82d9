"""How a failure is said in OpenAI's API: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping

from numoe.coordinator.api.failures import Failure
from numoe.protos.errors import InvalidRequest

_TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES: Mapping[str, str] = {"model": "model_not_found"}
_RENAMED = (("sampling.", ""), ("template_variables", "chat_template_kwargs"))


def refusal(failure: Failure, status: int) -> dict[str, object]:
    """The body of an answer that tells of a failure; the other servers' `param` is null where no field is at fault."""
    return {
        "error": {
            "message": failure.message,
            "type": _TYPES.get(status, "server_error"),
            "param": failure.field or None,
            "code": _CODES.get(failure.field, failure.reason.lower()),
        }
    }


def in_body(error: InvalidRequest, prompt: str) -> InvalidRequest:
    """The same fault under the name that the field has in a body, whose prompt is the field of that name."""
    field = error.field
    for ours, theirs in (*_RENAMED, ("prompt", prompt)):
        if field.startswith(ours):
            field = theirs + field.removeprefix(ours)
    return InvalidRequest(field, error.problem)
