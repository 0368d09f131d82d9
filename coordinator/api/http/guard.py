"""Who may ask over HTTP: nobody whose browser was lured here by another site.

Guarantees, also where no keys are asked for and so whoever reaches the address is an operator:

    another site's page reads nothing, since no answer says that it may, and acts on nothing: an action takes JSON from
    this origin, or that or no body from a program that is no browser; nor has it text generated, unless --cors-origins
    names it;
    a name that was made to point here (DNS rebinding) is not served: Host must be an IP address, localhost, this
    machine's own name, or the name that the service was told to listen on. Where keys are asked for any name is, as
    another site's page has none.

Every answer carries a content security policy: the page loads from here only, runs no inline script, and is not framed.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON = "application/json"
ANY_ORIGIN = "*"
LOOKING = frozenset({"GET", "HEAD"})  # the methods that do nothing
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Wraps an application: refuses foreign hosts, and adds the headers to every answer."""

    def __init__(self, app: ASGIApp, names: frozenset[str] | None, refuse: Callable[[Request, str], Response]) -> None:
        """`names`: under which the service is known, beside its IP addresses; None: under any.

        `refuse` tells those who ask for another why they are not answered.
        """
        self._app, self._names, self._refuse = app, names, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if self._names is None or is_own_host(host, self._names):
            await self._app(scope, receive, send_guarded)
        else:
            expected = f"expected an IP address or one of {', '.join(sorted(self._names))}"
            refusal = self._refuse(Request(scope), f"found the host {host[:100]!r}, {expected}")
            await refusal(scope, receive, send_guarded)


def own_names(address: str) -> frozenset[str]:
    """The names under which a service that listens on `address` may be asked for."""
    listens = address.rpartition(":")[0].strip("[]").lower()
    return frozenset({"localhost", socket.gethostname().lower(), *([] if _is_ip(listens) else [listens])})


def is_own_host(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header is one that no other site can have: an IP address, or one of `names`, with any port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return _is_ip(name) or name in names


def why_refused(headers: Mapping[str, str]) -> str:
    """Why an action with these headers (names in lower case) is refused; "" if it is not."""
    if why := why_foreign(headers):
        return why
    if "content-type" not in headers and "origin" not in headers and _has_no_body(headers):
        return ""  # browsers name the origin of whatever they post
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return "" if kind == JSON else f"found the content type {kind[:50]!r}, expected {JSON}"


def why_foreign(headers: Mapping[str, str], allowed: Collection[str] = (), method: str = "POST") -> str:
    """Why something with these headers comes from another site's page, and none of `allowed`; "": it does not.

    What a browser says comes from no page at all, as a person typed its address, may look.
    """
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is not None and (origin in allowed or ANY_ORIGIN in allowed):
        return ""
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"found the origin {origin[:100]!r}, expected the page of this service, at {host[:100]!r}"
    site = headers.get("sec-fetch-site")
    if site not in (None, "same-origin") and not (site == "none" and method in LOOKING):
        return f"a browser says that this comes from a {site[:20]} page, expected one of this service"
    return ""


def _has_no_body(headers: Mapping[str, str]) -> bool:
    return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
