"""Errors carry what others say of them, so that nobody takes a message apart."""

from __future__ import annotations

from numoe.protos.errors import InvalidRequest


def test_an_invalid_request_keeps_its_field_and_its_problem() -> None:
    error = InvalidRequest("sampling.top_p", "found 2.0, expected 0 to 1")
    assert (error.field, error.problem) == ("sampling.top_p", "found 2.0, expected 0 to 1")
    assert str(error) == "sampling.top_p: found 2.0, expected 0 to 1"
