"""How a failure is said in OpenAI's API: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping

from numoe.coordinator.api.failures import Failure
from numoe.coordinator.requests.constraint import FIELD
from numoe.protos.errors import InvalidRequest

_TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    421: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES: Mapping[str, str] = {"model": "model_not_found"}
_RENAMED = (
    ("sampling.dry.window", "dry_penalty_last_n"),
    ("sampling.dry.breakers", "dry_sequence_breakers"),
    ("sampling.dry.", "dry_"),
    ("sampling.", ""),
    ("slot", "id_slot"),
    ("template_variables", "chat_template_kwargs"),
)


def refusal(failure: Failure, status: int) -> dict[str, object]:
    """The body of an answer that tells of a failure; the other servers' `param` is null where no field is at fault.

    A prompt that does not fit is told so that clients of OpenAI's API (by the code or the message) and of llama-server
    (by its two numbers) see that they have to shorten the conversation.
    """
    error: dict[str, object] = {
        "message": failure.message,
        "type": _TYPES.get(status, "server_error"),
        "param": failure.field or None,
        "code": _CODES.get(failure.field, failure.reason.lower()),
    }
    if failure.context_tokens is not None:
        error["message"] = f"This model's maximum context length is {failure.context_tokens} tokens. {failure.message}"
        error |= {"n_prompt_tokens": failure.prompt_tokens, "n_ctx": failure.context_tokens}
    return {"error": error}


def in_body(error: InvalidRequest, prompt: str, form: str = "", top: str = "top_logprobs") -> InvalidRequest:
    """The same fault under the name that the field has in a body.

    `prompt`: the field that holds the prompt; `form`: the one that says what form the answer has; `top`: how many of
    the likeliest tokens are told.
    """
    field = error.field
    for ours, theirs in (*_RENAMED, ("prompt", prompt), ("top_logprobs", top)):
        if field.startswith(ours):
            field = theirs + field.removeprefix(ours)
    if field.partition(".")[0] == FIELD:
        field = form or "tool_choice"  # as calls that must come are a grammar, too
    return error.named(field)
