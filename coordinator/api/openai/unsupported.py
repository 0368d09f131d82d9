"""What OpenAI's API has and this service has not: refused by name, since silence would look like consent."""

from __future__ import annotations

from numoe.coordinator.api.openai.settings import Settings
from numoe.protos.errors import InvalidRequest


def check_settings(settings: Settings) -> None:
    """Raises InvalidRequest for fields that would change the answer if they were obeyed."""
    if settings.logit_bias:
        raise InvalidRequest("logit_bias", "is not supported by this version; leave it out")
    if settings.response_format is not None and settings.response_format.type != "text":
        kind = settings.response_format.type
        raise InvalidRequest("response_format.type", f"is {kind!r:.40}; this version makes answers of type 'text' only")


def check_alternatives(field: str, count: int | None) -> None:
    """Raises InvalidRequest where more log-probabilities are wanted than those of the tokens that were drawn."""
    if count:
        raise InvalidRequest(
            field, f"is {count}; this version tells the log-probability of the drawn token only: say 0"
        )


def check_completion(echo: bool | None, suffix: str | None, best_of: int | None, choices: int) -> None:
    """Raises InvalidRequest for what text completions alone have."""
    if echo:
        raise InvalidRequest("echo", "is not supported; put the prompt before the answer yourself")
    if suffix:
        raise InvalidRequest("suffix", "is not supported; write the model's own tokens for it into the prompt")
    if best_of not in (None, choices):
        raise InvalidRequest("best_of", f"is {best_of}; this service returns all answers that it makes: expected n")
