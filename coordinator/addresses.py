"""The addresses that a service listens on: HOST:PORT or unix:PATH, whatever is spoken there."""

from __future__ import annotations

import errno
import ipaddress
import socket

from numoe.protos.errors import AddressInUse, SetupError


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
