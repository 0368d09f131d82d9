"""/v1/models: the one model that is served."""

from __future__ import annotations

from typing import Any

from numoe.coordinator.api.answering import check_model
from numoe.coordinator.api.served_model import ServedModel


def model_list(served: ServedModel, created: int) -> dict[str, Any]:
    """All of them."""
    return {"object": "list", "data": [_model(served, created)]}


def model_of(name: str, served: ServedModel, created: int) -> dict[str, Any]:
    """The one of this name. Raises InvalidRequest of the field "model" for any other."""
    check_model(name, served)
    return _model(served, created)


def _model(served: ServedModel, created: int) -> dict[str, Any]:
    """OpenAI's fields, vLLM's `max_model_len` and llama-server's `meta`."""
    spec = served.spec
    return {
        "id": spec.name,
        "object": "model",
        "created": created,
        "owned_by": "numoe",
        "max_model_len": served.limits.context_tokens,
        "meta": {
            "n_vocab": spec.vocabulary,
            "n_ctx": served.limits.context_tokens,
            "n_ctx_train": spec.context_length,
            "n_embd": spec.width,
        },
    }
