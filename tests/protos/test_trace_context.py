"""`traceparent` is read as the standard says, and what it does not allow is nothing."""

from __future__ import annotations

import pytest

from numoe.protos.trace_context import STATE_CHARACTERS, TraceContext, read_trace_context

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WELL_FORMED = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (WELL_FORMED, 1),
        (f"00-{TRACE}-{PARENT}-00", 0),
        (f"00-{TRACE}-{PARENT}-ff", 255),
        (f"cc-{TRACE}-{PARENT}-01", 1),  # a version to come
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", 1),
    ],
)
def test_what_is_well_formed_is_taken_over(header: str, flags: int) -> None:
    assert read_trace_context(header) == TraceContext(TRACE, PARENT, flags)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        WELL_FORMED.upper(),
        f" {WELL_FORMED}",
        f"{WELL_FORMED}\n",
        f"{WELL_FORMED}-more",
        f"cc-{TRACE}-{PARENT}-01more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"{WELL_FORMED},{WELL_FORMED}",
    ],
)
def test_what_is_malformed_is_nothing(header: str) -> None:
    assert read_trace_context(header) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (("rojo=00f067aa0ba902b7",), "rojo=00f067aa0ba902b7"),
        (("rojo=1", "congo=t61"), "rojo=1,congo=t61"),
        (("a=" + "x" * (STATE_CHARACTERS - 2),), "a=" + "x" * (STATE_CHARACTERS - 2)),
        (("a=" + "x" * (STATE_CHARACTERS - 1),), ""),
        (("a=ü",), ""),
        (("a=1\n",), ""),
    ],
)
def test_what_tracing_systems_add_is_kept_as_it_is_or_not_at_all(states: tuple[str, ...], kept: str) -> None:
    context = read_trace_context(WELL_FORMED, states)
    assert context is not None
    assert context.state == kept
