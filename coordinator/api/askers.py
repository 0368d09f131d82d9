"""Who asks: the request's id, which client, log, page and traces share, and the trace that the client is in.

In no protocol's words; each door finds in its headers what is named here.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from numoe.coordinator.access.key_ring import Headers, asking_key
from numoe.coordinator.api.failures import FailureKind, ToldError, describe_failure
from numoe.coordinator.requests.request_end import Asker, Report, RequestEnd, name_of
from numoe.protos.errors import InvalidRequest, RequestCancelled
from numoe.protos.trace_context import TRACEPARENT, TRACESTATE, read_trace_context

REQUEST_ID = "x-request-id"  # the header that tells a request's id, in both directions
REQUEST_ID_CHARACTERS = 128

_OURS = (FailureKind.UNAVAILABLE, FailureKind.INTERNAL)


def name_asker(client: str, method: str, given_id: str, headers: Headers) -> Asker:
    """Who asks.

    Args:
        client: as the door knows it.
        method: that is called, in the door's words.
        given_id: of the request, in its message; "": the header's counts, or else one is made. One that
            `check_request_id` refuses is replaced, too, so that even this refusal has an id.
        headers: of the call.
    """
    parents = headers(TRACEPARENT)
    trace = read_trace_context(parents[0], headers(TRACESTATE)) if len(parents) == 1 else None
    return Asker(name_call(given_id, headers), client, method, trace, asking_key())


def name_call(given_id: str, headers: Headers) -> str:
    """The id of a call, as `name_asker` has it."""
    given = _given_id(given_id, headers)
    return given if given and _is_id(given) else secrets.token_hex(8)


def check_request_id(given_id: str, headers: Headers) -> None:
    """Raises InvalidRequest for an id that is too long, or no line of printable ASCII."""
    if not _is_id(_given_id(given_id, headers)):
        expected = f"expected at most {REQUEST_ID_CHARACTERS} printable ASCII characters"
        raise InvalidRequest("request_id", expected)


@contextmanager
def refusals_told(asker: Asker, report: Report) -> Iterator[None]:
    """For all until a request is queued: what is raised is reported, and told to the client with the request's id."""
    came = time.monotonic()

    def refused(outcome: str, field: str = "", error: str = "") -> None:
        report(RequestEnd(asker, outcome, time.time(), time.monotonic() - came, refused_field=field, error=error))

    try:
        yield
    except Exception as error:
        failure = describe_failure(error, asker.request_id)
        refused(failure.reason.lower(), failure.field, failure.message if failure.kind in _OURS else "")
        raise ToldError(failure) from error
    except asyncio.CancelledError:  # the client went while its prompt was encoded
        refused(name_of(RequestCancelled))
        raise


def _given_id(given_id: str, headers: Headers) -> str:
    return given_id or next(iter(headers(REQUEST_ID)), "")


def _is_id(text: str) -> bool:
    return len(text) <= REQUEST_ID_CHARACTERS and text.isascii() and text.isprintable()
