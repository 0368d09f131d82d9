"""How HTTP is encrypted: a context of Python's ssl for each state of the certificate's files."""

from __future__ import annotations

import ssl

from numoe.coordinator.access.certificates import FollowedCertificates, serving_context


def follow(certificates: FollowedCertificates) -> ssl.SSLContext:
    """A context by which each new connection is encrypted as the files are then."""
    first = serving_context(certificates.pem)
    now = first

    def look(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Called while a client says hello, whatever name he asks for."""
        nonlocal now
        found = certificates.news()
        if found is not None:
            now = serving_context(found)
        connection.context = now

    first.sni_callback = look
    return first
