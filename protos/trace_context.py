"""Where a request stands in a trace, as W3C Trace Context has it travel: `traceparent` and `tracestate`.

    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01      version, trace, parent, flags

https://www.w3.org/TR/trace-context/. What is malformed is nothing: no request fails for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
STATE_CHARACTERS = 512  # at least so many have to be passed on
SAMPLED = 0x01

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(r"[\x20-\x7e\t]*")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The trace of whoever asks, and its span that asks."""

    trace_id: str  # 32 hexadecimal digits
    parent_id: str  # 16
    flags: int  # SAMPLED: what asks is recorded, and so shall be what answers
    state: str = ""  # of tracing systems, to be passed on as it is


def read_trace_context(traceparent: str, tracestate: Iterable[str] = ()) -> TraceContext | None:
    """What the headers say, `tracestate` each time that it stands there; None: nothing, or nothing well-formed."""
    match = _PARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or not int(trace_id, 16) or not int(parent_id, 16):
        return None
    state = ",".join(tracestate)
    if len(state) > STATE_CHARACTERS or not _STATE.fullmatch(state):
        state = ""
    return TraceContext(trace_id, parent_id, int(flags, 16), state)
