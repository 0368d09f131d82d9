"""How a service shows its certificate: what Python's ssl takes from files only, handed to it in memory.

Files that change meanwhile are so never mixed: what was read and checked together is used together.
"""

from __future__ import annotations

import os
import ssl


def load_chain(context: ssl.SSLContext, key: bytes, certificate: bytes) -> None:
    """Have a context show a certificate, both in PEM. Raises ssl.SSLError."""
    file = os.memfd_create("numoe-certificate", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as memory:
            memory.write(key + b"\n" + certificate)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def serving_context(key: bytes, certificate: bytes, client_authority: bytes | None) -> ssl.SSLContext:
    """A context of a service of HTTP, all in PEM. Raises ssl.SSLError: OpenSSL does not take it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_chain(context, key, certificate)
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_authority.decode("ascii", "ignore"))
    return context
