"""Tells the log, and a trace where they are wanted, of each request once it is over.

    request_ended     an accepted request: one line each
    request_refused   one that was refused before it was queued: at most so many lines a second, with the number of
                      those left out

Ends come from the engine's thread and the event loop, which spend 13 us on each request; they are told by a thread of
their own, in 26 us, and 90 us more with traces.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import structlog

from numoe.coordinator.afterwards import Afterwards
from numoe.coordinator.ration import Ration
from numoe.coordinator.requests.request_end import RequestEnd

FINISH_SECONDS = 1.0  # for ends that are not told yet when the service ends

_log = structlog.get_logger()


class Traces(Protocol):
    """Where spans go."""

    def trace(self, end: RequestEnd, model: str) -> str:
        """Make the spans of a request that is over; returns the id of its trace."""

    def close(self) -> None:
        """Send what is not sent yet, for some seconds at most."""


class RequestLog:
    """Of one service."""

    def __init__(self, model: Callable[[], str], traces: Traces | None = None) -> None:
        """`model`: the name of what is served, "" as long as nothing is."""
        self._model, self._traces = model, traces
        self._telling = Afterwards("numoe-ends")
        self._refusals = Ration()

    def report(self, end: RequestEnd) -> None:
        """A request is over; returns at once. By any thread."""
        self._telling.do(partial(self._tell, end))

    def close(self) -> None:
        """Tell what is not told yet; what ends later is not told."""
        self._telling.close(FINISH_SECONDS)
        if self._traces is not None:
            self._traces.close()

    def _tell(self, end: RequestEnd) -> None:
        refused = end.refused_field is not None
        left_out = self._refusals.facts(end.outcome) if refused else {}
        if left_out is None:
            return
        asker, model = end.asker, self._model()
        trace = asker.trace.trace_id if asker.trace else None
        try:
            trace = self._traces.trace(end, model) if self._traces else trace
        except Exception:  # tracing may fail, the log not
            _log.exception("trace_failed", request=asker.request_id)
        facts: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(end.ended_at, UTC).isoformat().replace("+00:00", "Z"),
            "request": asker.request_id,
            "client": asker.client,
            "key": asker.key or None,
            "method": asker.method,
            "model": model,
            "outcome": end.outcome,
            "trace": trace,
            "seconds": _rounded(end.seconds),
        }
        if refused:
            why = {"field": end.refused_field or None, "error": end.error or None}
            _log.info("request_refused", **facts, **why, **left_out)
        else:
            tell = _log.error if end.error else _log.info
            tell("request_ended", **facts, **_work(end), error=end.error or None)


def _work(end: RequestEnd) -> dict[str, float | int | None]:
    timings = end.timings
    return {
        "prompt_tokens": end.prompt_tokens,
        "cached_tokens": end.cached_tokens,
        "generated_tokens": end.generated_tokens,
        "drafted_tokens": end.drafted_tokens,
        "accepted_tokens": end.accepted_tokens,
        "mean_experts": _rounded(end.mean_experts, 3),
        "saved_bytes": end.saved_bytes,
        "queue_seconds": _rounded(timings.queue_milliseconds / 1e3),
        "first_token_seconds": _rounded(end.first_token_seconds),
        "prefill_seconds": _rounded(timings.prefill_milliseconds / 1e3),
        "decode_seconds": _rounded(timings.decode_milliseconds / 1e3),
        "prefill_tokens_per_second": _rounded(timings.prefill_tokens_per_second, 1),
        "decode_tokens_per_second": _rounded(timings.decode_tokens_per_second, 1),
    }


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)
