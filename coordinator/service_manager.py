"""What systemd is told of a service of type notify (sd_notify(3)): that it is ready, what it does, that it lives.

Outside systemd there is nobody to tell.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class ServiceManager:
    """The socket that the environment names; used by any thread."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        own = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        wanted = environment.get("WATCHDOG_USEC", "") if own else ""
        # Seconds after which systemd takes the service for dead; 0: it does not look.
        self.watchdog_seconds = int(wanted) / 1e6 if self._address and wanted.isdecimal() else 0.0

    def tell(self, *lines: str) -> None:
        """Tell lines such as "READY=1"; what cannot be told is dropped."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(), self._address)

    def ready(self, status: str) -> None:
        """It serves."""
        self.tell("READY=1", f"STATUS={status}")

    def loading(self, phase: str, done: int, total: int) -> None:
        """It is not ready yet, and goes on."""
        share = f", {done / total:.0%} of {total / 2**30:.1f} GiB" if total else ""
        self.tell(f"STATUS={phase}{share}")

    def lives(self) -> None:
        """A sign of life, which systemd asks for where it watches."""
        self.tell("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """It ends."""
        self.tell("STOPPING=1", f"STATUS={status}")
