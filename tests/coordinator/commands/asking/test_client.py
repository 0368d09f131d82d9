"""The trace that a command belongs to comes from its environment."""

from __future__ import annotations

import pytest

from numoe.coordinator.commands.asking.client import trace_headers

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("environment", "headers"),
    [
        ({}, ()),
        ({"TRACEPARENT": TRACE}, (("traceparent", TRACE),)),
        ({"TRACEPARENT": TRACE, "TRACESTATE": "rojo=1"}, (("traceparent", TRACE), ("tracestate", "rojo=1"))),
        ({"TRACEPARENT": TRACE, "TRACESTATE": "rojo=ü"}, (("traceparent", TRACE),)),
        ({"TRACEPARENT": "nonsense\n", "TRACESTATE": "rojo=1"}, ()),
        ({"TRACESTATE": "rojo=1"}, ()),
    ],
)
def test_what_is_malformed_there_is_left_out(environment: dict[str, str], headers: tuple[tuple[str, str], ...]) -> None:
    assert trace_headers(environment) == headers
