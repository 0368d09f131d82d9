"""What OpenAI's API has and this service has not: refused by name, since silence would look like consent."""

from __future__ import annotations

from numoe.protos.errors import InvalidRequest


def check_completion(suffix: str | None, best_of: int | None, choices: int) -> None:
    """Raises InvalidRequest for what text completions alone have."""
    if suffix:
        raise InvalidRequest("suffix", "is not supported; write the model's own tokens for it into the prompt")
    if best_of not in (None, choices):
        raise InvalidRequest("best_of", f"is {best_of}; this service returns all answers that it makes: expected n")
