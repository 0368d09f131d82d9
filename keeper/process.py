"""Holds memory for others: python -I -S process.py SOCKET COORDINATOR SECONDS

Workers put descriptors of shared memory here, each under a name and with a note, and whoever comes after them takes
them up again. What is kept is gone once this process is. It ends with the process COORDINATOR, or so many SECONDS later
unless another one adopts it meanwhile. It runs on the standard library alone, in some 12 MB, and maps nothing.

One packet each way, a JSON list, with a descriptor where there is one. A PREFIX is empty or ends with a slash:

    ["put", NAME, NOTE] + descriptor or none   -> ["done"]
    ["list", PREFIX]                           -> ["item", NAME, NOTE] + descriptor or none, for each; ["done"]
    ["remove", NAME or PREFIX]                 -> ["done"]
    ["adopt", COORDINATOR, SECONDS]            -> ["done"], or ["taken"]: its own coordinator lives
    ["end"]                                    -> ["done"], and it ends
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import struct
import sys
import time
from contextlib import suppress

MOST_BYTES = 64 << 10  # of a packet
CLIENT_SECONDS = 2.0  # for who does not read its answer, such as a process that is stopped
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid, as SO_PEERCRED tells them


def owner_of_peer(connection: socket.socket) -> int:
    """The user whose process is at the other end."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(told)[1])


def send(connection: socket.socket, words: list[object], descriptor: int | None = None) -> None:
    """Send a packet. Raises OSError, also where it is too long for one."""
    packet = json.dumps(words, separators=(",", ":")).encode()
    if len(packet) > MOST_BYTES:
        raise OSError(f"a packet of {len(packet)} bytes, expected at most {MOST_BYTES}")
    socket.send_fds(connection, [packet], [] if descriptor is None else [descriptor])


def receive(connection: socket.socket) -> tuple[list[object], int | None]:
    """The next packet, and the descriptor that came with it. Raises OSError: the other end is gone."""
    packet, descriptors, _, _ = socket.recv_fds(connection, MOST_BYTES, 1)
    if not packet:
        raise ConnectionResetError("the other end is gone")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return json.loads(packet), descriptors[0] if descriptors else None


def allow_many_files() -> None:
    """Let this process have as many open as it may: there is a descriptor for each expert that was moved."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Keeper:
    """What is kept, and for whom."""

    def __init__(self, path: str, coordinator: int, seconds: float) -> None:
        self._kept: dict[str, tuple[object, int | None]] = {}
        self._poll = select.poll()
        self._clients: dict[int, socket.socket] = {}
        self._coordinator, self._seconds, self._end = -1, 0.0, 0.0
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.bind(path)
        self._door.listen()
        self._poll.register(self._door, select.POLLIN)
        self._belong_to(coordinator, seconds)

    def _belong_to(self, coordinator: int, seconds: float) -> None:
        """End so many seconds after this process has."""
        try:
            self._coordinator = os.pidfd_open(coordinator)
            self._poll.register(self._coordinator, select.POLLIN)
        except ProcessLookupError:
            self._coordinator = -1
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def run(self) -> None:
        """Serve until the end."""
        while self._coordinator >= 0 or time.monotonic() < self._end:
            left = None if self._coordinator >= 0 else 1000 * max(0.0, self._end - time.monotonic())
            for descriptor, _ in self._poll.poll(left):
                if descriptor == self._coordinator:
                    self._poll.unregister(descriptor)
                    os.close(descriptor)
                    self._coordinator, self._end = -1, time.monotonic() + self._seconds
                elif descriptor == self._door.fileno():
                    self._greet()
                elif not self._serve(descriptor):
                    return

    def _greet(self) -> None:
        try:
            client, _ = self._door.accept()
        except OSError:  # too many files are open: who waits is told by its own limit of time
            return
        if owner_of_peer(client) != os.geteuid():
            client.close()
            return
        client.settimeout(CLIENT_SECONDS)
        self._clients[client.fileno()] = client
        self._poll.register(client, select.POLLIN)

    def _serve(self, number: int) -> bool:
        """Answer a client; False: it wants the end."""
        client = self._clients[number]
        try:
            words, descriptor = receive(client)
            ends = words == ["end"]
            self._answer(client, words, descriptor)
        except (OSError, ValueError, TypeError):  # it is gone, or does not speak as it should
            self._poll.unregister(number)
            self._clients.pop(number).close()
            return True
        return not ends

    def _answer(self, client: socket.socket, words: list[object], descriptor: int | None) -> None:
        verb, *arguments = words
        answer: list[object] = ["done"]
        if verb == "put":
            name, note = arguments
            self._remove(str(name))
            self._kept[str(name)] = note, descriptor
        elif verb == "list":
            for name, (note, kept) in [item for item in self._kept.items() if item[0].startswith(str(arguments[0]))]:
                send(client, ["item", name, note], kept)
        elif verb == "remove":
            self._remove(str(arguments[0]))
        elif verb == "adopt" and self._coordinator >= 0:
            answer = ["taken"]
        elif verb == "adopt":
            coordinator, seconds = arguments
            self._belong_to(int(str(coordinator)), float(str(seconds)))
        elif verb != "end":
            raise ValueError(verb)
        send(client, answer)

    def _remove(self, wanted: str) -> None:
        below = wanted.endswith("/") or not wanted
        for name in [one for one in self._kept if one == wanted or (below and one.startswith(wanted))]:
            _, descriptor = self._kept.pop(name)
            if descriptor is not None:
                os.close(descriptor)


def main() -> None:
    """Keep until the end."""
    path, coordinator, seconds = sys.argv[1:]
    allow_many_files()
    keeper = Keeper(path, int(coordinator), float(seconds))
    sys.stdout.write("ready\n")
    sys.stdout.close()
    try:
        keeper.run()
    finally:
        with suppress(FileNotFoundError):  # whoever told it to end may have been faster
            os.unlink(path)


if __name__ == "__main__":
    main()
