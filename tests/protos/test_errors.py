"""Errors carry what others say of them, so that nobody takes a message apart, into other processes too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from numoe.protos.errors import InvalidRequest, ModelFileError, NumoeError, PromptTooLong, QueueFull

MADE: dict[type[NumoeError], tuple[Any, ...]] = {
    InvalidRequest: ("sampling.top_p", "found 2.0, expected 0 to 1"),
    PromptTooLong: ("prompt", "has 9 tokens", 9, 8),
    QueueFull: ("full", 1.5),
    ModelFileError: ("truncated", "the file ends early"),
}


def every_error(root: type[NumoeError] = NumoeError) -> Iterator[type[NumoeError]]:
    """The root and all that are derived from it."""
    yield root
    for kind in root.__subclasses__():
        yield from every_error(kind)


def test_an_invalid_request_keeps_its_field_and_its_problem() -> None:
    error = InvalidRequest("sampling.top_p", "found 2.0, expected 0 to 1")
    assert (error.field, error.problem) == ("sampling.top_p", "found 2.0, expected 0 to 1")
    assert str(error) == "sampling.top_p: found 2.0, expected 0 to 1"


@pytest.mark.parametrize("kind", list(every_error()), ids=lambda kind: kind.__name__)
def test_every_error_survives_the_way_to_another_process(kind: type[NumoeError]) -> None:
    error = kind(*MADE.get(kind, ("what was found",)))
    error.add_note("as seen by worker 1")
    for found in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(found) is kind
        assert (str(found), found.reason, vars(found)) == (str(error), error.reason, vars(error))
