"""Every field of a request is checked against the model's limits, and the message says what to do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from numoe.coordinator.requests.repeats import Dry
from numoe.coordinator.requests.request import GenerationRequest, RequestLimits, check_request, token_budget
from numoe.protos.errors import InvalidRequest
from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction
from numoe.protos.messages import Sampling

LIMITS = RequestLimits(vocabulary=100, context_tokens=50)
GOOD = GenerationRequest("r", prompt=(1, 2, 99), max_tokens=47)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_tokens": None},
        {"max_tokens": 1, "min_tokens": 1},
        {"prompt": (0,) * 49, "max_tokens": 1},
        {"stop": ("x" * 256, "é" * 128) + ("s",) * 14},
        {"stop_token_ids": frozenset(range(64))},
        {"experts": ExpertReduction(1, 1.0)},
        {"experts": ExpertReduction(2**31 - 1, 0.0)},
        {"sampling": Sampling(0.01, 2**31 - 1, 1e-6, 1.0, 100.0, -2.0, 2.0, 2**64 - 1)},
    ],
)
def test_a_request_within_the_limits_passes(changes: dict[str, Any]) -> None:
    check_request(replace(GOOD, **changes), LIMITS)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"prompt": ()}, "prompt", "is empty"),
        ({"prompt": (1,) * 50}, "prompt", "at most 49"),
        ({"prompt": (1, 100)}, "prompt[1]", "0 to 99"),
        ({"prompt": (1, 2, -1)}, "prompt[2]", "token id -1"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 48}, "max_tokens", "leaves room for 47"),
        ({"min_tokens": -1}, "min_tokens", "0 to 47"),
        ({"dry": Dry(-1.0)}, "sampling.dry.multiplier", "0 to 100"),
        ({"dry": Dry(1.0, math.nan)}, "sampling.dry.base", "1 to 100"),
        ({"dry": Dry(1.0, allowed_length=0)}, "sampling.dry.allowed_length", "1 to 4096"),
        ({"dry": Dry(1.0, window=4097)}, "sampling.dry.window", "1 to 4096"),
        ({"dry": Dry(1.0, breakers=("",))}, "sampling.dry.breakers", "1 to 64 bytes"),
        ({"dry": Dry(1.0, breakers=("a",) * 17)}, "sampling.dry.breakers", "at most 16"),
        ({"top_logprobs": -1}, "top_logprobs", "0 to 20"),
        ({"top_logprobs": 21}, "top_logprobs", "0 to 20"),
        ({"logit_bias": ((LIMITS.vocabulary, 1.0),)}, "logit_bias", f"ids are 0 to {LIMITS.vocabulary - 1}"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias", "token id -1"),
        ({"logit_bias": ((1, 100.5),)}, "logit_bias", "-100 to 100"),
        ({"logit_bias": ((1, math.nan),)}, "logit_bias", "-100 to 100"),
        ({"logit_bias": ((1, math.inf),)}, "logit_bias", "-infinity"),
        ({"logit_bias": tuple((1, 1.0) for _ in range(1025))}, "logit_bias", "at most 1024"),
        ({"min_tokens": 48}, "min_tokens", "0 to 47"),
        ({"max_tokens": None, "min_tokens": 48}, "min_tokens", "0 to 47"),
        ({"stop": ("s",) * 17}, "stop", "at most 16"),
        ({"stop": ("fine", "")}, "stop[1]", "0 bytes"),
        ({"stop": ("é" * 129,)}, "stop[0]", "258 bytes"),
        ({"stop_token_ids": frozenset(range(65))}, "stop_token_ids", "at most 64"),
        ({"stop_token_ids": frozenset({100})}, "stop_token_ids", "token id 100"),
        ({"experts": ExpertReduction(0, 0.5)}, "experts.fewest", "is 0"),
        ({"experts": ExpertReduction(2**31, 0.5)}, "experts.fewest", "positive 32-bit"),
        ({"experts": ExpertReduction(1, 1.5)}, "experts.threshold", "0 (off) to 1"),
        ({"experts": ExpertReduction(1, -0.1)}, "experts.threshold", "0 (off) to 1"),
        ({"experts": ExpertReduction(1, math.nan)}, "experts.threshold", "is nan"),
    ],
)
def test_a_field_out_of_range_is_named(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(replace(GOOD, **changes), LIMITS)
    assert caught.value.field == field
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, 0.001, 101.0, math.nan, math.inf]),
        ("top_k", [-1, 2**31]),
        ("top_p", [0.0, 1.1, math.nan]),
        ("min_p", [-0.1, 1.1, math.nan]),
        ("repetition_penalty", [0.0, -1.0, 101.0, math.nan]),
        ("frequency_penalty", [-2.1, 2.1, math.nan]),
        ("presence_penalty", [-2.1, 2.1, math.inf]),
        ("typical_p", [0.0, 1.1, math.nan]),
        ("top_n_sigma", [-0.1, 101.0, math.nan]),
        ("xtc_probability", [-0.1, 1.1, math.nan]),
        ("xtc_threshold", [-0.1, 1.1, math.nan]),
        ("seed", [-1, 2**64]),
    ],
)
def test_a_sampling_parameter_out_of_range_is_named(name: str, values: list[float]) -> None:
    for value in values:
        changes: dict[str, Any] = {name: value}
        request = replace(GOOD, sampling=replace(Sampling(), **changes))
        with pytest.raises(InvalidRequest, match="expected") as caught:
            check_request(request, LIMITS)
        assert caught.value.field == f"sampling.{name}"


def test_without_max_tokens_the_budget_is_what_the_context_leaves() -> None:
    assert token_budget(replace(GOOD, max_tokens=None), LIMITS) == 47
    assert token_budget(replace(GOOD, max_tokens=5), LIMITS) == 5


def test_a_model_without_experts_cannot_run_fewer_of_them() -> None:
    dense = replace(LIMITS, has_experts=False)
    check_request(replace(GOOD, experts=ALL_EXPERTS), dense)
    with pytest.raises(InvalidRequest, match="this model has none"):
        check_request(replace(GOOD, experts=ExpertReduction(1, 0.5)), dense)
