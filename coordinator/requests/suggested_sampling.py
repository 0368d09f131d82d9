"""How a model's makers want its tokens drawn, as its file says: what a request gets that does not say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numoe.coordinator.requests.request import check_sampling
from numoe.protos.errors import InvalidRequest
from numoe.protos.messages import Sampling

AS_LEARNED = Sampling(temperature=1.0)  # by its own probabilities, as OpenAI's API does
_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
_KINDS = {"top_k": int}


def suggested_sampling(metadata: Mapping[str, Any]) -> Sampling:
    """What the file's metadata suggest; a value that no request could ask for is left out."""
    suggested = AS_LEARNED
    for key, name in _KEYS.items():
        try:
            value: Any = _KINDS.get(name, float)(metadata[key])
            changed = replace(suggested, **{name: value})
            check_sampling(changed)
        except (KeyError, TypeError, ValueError, OverflowError, InvalidRequest):
            continue
        suggested = changed
    return suggested
