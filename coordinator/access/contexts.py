"""What Python's ssl takes from files only, handed to it in memory.

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
