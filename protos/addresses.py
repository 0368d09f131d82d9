"""The addresses of services: HOST:PORT or unix:PATH, whatever is spoken there."""

from __future__ import annotations

import ipaddress

from numoe.protos.errors import SetupError


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address; a malformed address is a SetupError."""
    if address.startswith("unix:"):
        return True
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise SetupError(f"the address {address!r} has no port: expected HOST:PORT or unix:PATH")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
