"""What is wrong with a body is told by the place of the field."""

from __future__ import annotations

import msgspec
import pytest

from numoe.coordinator.api.bodies import read_body
from numoe.protos.errors import InvalidRequest


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
