"""How HTTP is encrypted: a context of Python's ssl for each state of the certificate's files."""

from __future__ import annotations

import ssl

from numoe.coordinator.access.certificates import FollowedCertificates, Pem
from numoe.coordinator.access.contexts import load_chain


def follow(certificates: FollowedCertificates) -> ssl.SSLContext:
    """A context by which each new connection is encrypted as the files are then."""
    first = _context(certificates.pem)
    now = first

    def look(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Called while a client says hello, whatever name he asks for."""
        nonlocal now
        found = certificates.news()
        if found is not None:
            now = _context(found)
        connection.context = now

    first.sni_callback = look
    return first


def _context(pem: Pem) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_chain(context, pem.key, pem.certificate)
    if pem.client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pem.client_authority.decode("ascii", "ignore"))
    return context
