"""What a model's file suggests for drawing its tokens is taken as far as a request could ask for it."""

from __future__ import annotations

import numpy as np

from numoe.coordinator.requests.suggested_sampling import AS_LEARNED, suggested_sampling
from numoe.protos.messages import Sampling


def test_what_the_file_says_is_suggested() -> None:
    metadata = {
        "general.sampling.temp": np.float32(0.5),
        "general.sampling.top_k": np.int32(20),
        "general.sampling.top_p": 0.95,
        "general.sampling.min_p": 0.0,
        "general.sampling.penalty_repeat": 1.05,
        "general.name": "x",
    }
    assert suggested_sampling(metadata) == Sampling(
        temperature=0.5, top_k=20, top_p=0.95, min_p=0.0, repetition_penalty=1.05
    )


def test_what_no_request_could_ask_for_is_not() -> None:
    metadata = {
        "general.sampling.temp": float("nan"),
        "general.sampling.top_k": "many",
        "general.sampling.top_p": 2.0,
        "general.sampling.min_p": [0.1],
        "general.sampling.penalty_repeat": 0,
    }
    assert suggested_sampling(metadata) == suggested_sampling({}) == AS_LEARNED
