"""Why a service could not listen on an address."""

from __future__ import annotations

import errno
import socket

from numoe.protos.errors import AddressInUse, SetupError


def explain_refusal(address: str, flag: str = "--address") -> SetupError:
    """Why a server could not listen on an address that `flag` sets, found out by a plain socket."""
    if address.startswith("unix:"):
        return SetupError(f"cannot listen on {address}: the folder is missing or not writable, or the path too long")
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host.strip("[]"), int(port)), family=family, reuse_port=False):
            pass
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return SetupError(f"cannot listen on {address}: {error.strerror or error}")
    return AddressInUse(f"{address} is taken by another process: stop that one, or choose another with {flag}")
