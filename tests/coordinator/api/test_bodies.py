"""What is wrong with a body is told by the place of the field."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from numoe.coordinator.api.anthropic.bodies import MessageBody, constraint_of
from numoe.coordinator.api.bodies import meant_sampling, read_body
from numoe.coordinator.requests.request import TEMPERATURE_RANGE, check_sampling
from numoe.protos.errors import InvalidRequest
from numoe.protos.messages import Sampling


class Inner(msgspec.Struct, kw_only=True):
    """As in a list."""

    role: str


class Outer(msgspec.Struct, kw_only=True):
    """A body."""

    messages: list[Inner]
    bias: dict[str, float] | None = None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{}", "messages: is missing"),
        (b'{"messages": [{"role": "a"}, {}]}', "messages[1].role: is missing"),
        (b'{"messages": [{"role": 7}]}', "messages[0].role: expected `str`, got `int`"),
        (b'{"messages": [], "bias": {"a": "b"}}', "bias[...]: expected `float`, got `str`"),
        (b"[]", "body: expected `object`, got `array`"),
        (b"{", "body: is no JSON: "),
        (b"", "body: is no JSON: "),
        (b'{"messages": [{"role": "\xff"}]}', "body: is no JSON: "),
        (b'{"messages": [], "x": ' + b"[" * 100_000, "body: is nested too deep"),
    ],
)
def test_a_fault_is_named_by_its_place(body: bytes, told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_body(body, Outer)
    assert str(refused.value).startswith(told)


def test_what_is_not_known_is_left_aside() -> None:
    assert read_body(b'{"messages": [{"role": "a", "x": 1}], "bias": null, "y": [2]}', Outer) == Outer(
        messages=[Inner(role="a")]
    )


@pytest.mark.parametrize("schema", [b'{"a": "\xff"}', b"null"])
def test_a_form_of_anthropics_that_holds_no_schema_is_a_fault_of_the_body(schema: bytes) -> None:
    wanted = b'{"messages": [], "max_tokens": 1, "output_config": {"format": {"type": "json_schema", "schema": %b}}}'
    with pytest.raises(InvalidRequest, match=r"^(body: is no JSON|output_config\.format\.schema: is missing)"):
        constraint_of(read_body(wanted % schema, MessageBody))


def test_settings_that_other_services_take_are_drawn_by_as_they_are_meant() -> None:
    assert meant_sampling({"temperature": 0.0, "top_p": 0.5}) == {"temperature": 0.0, "top_p": 0.5}
    assert meant_sampling({"temperature": 1e-6}) == {"temperature": TEMPERATURE_RANGE[0]}
    least = meant_sampling({"top_p": 0})["top_p"]
    assert 0 < least < 1 / 1_000_000, "less than the likeliest of a million tokens has"
    check_sampling(Sampling(top_p=least))
    assert float(np.float32(least)) > 0
