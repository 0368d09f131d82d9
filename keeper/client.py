"""Speaks to a keeper: for workers, which put memory there and take it up again, and for coordinators.

Whoever speaks checks that the keeper is a process of its own user, as the keeper checks its clients. A keeper that does
not answer is gone: KeeperGone. Losing it costs that weights are read again after the next loss, and nothing else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from numoe.keeper.process import owner_of_peer, receive, send

ANSWER_SECONDS = 10.0


class KeeperGone(Exception):
    """There is no keeper behind a socket, or it does not answer; what it kept cannot be had."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing that is kept."""

    name: str
    note: object  # of JSON
    descriptor: int | None  # of shared memory; the caller's, to close


class KeeperClient:
    """A connection for each call: calls are rare, and who comes after a loss finds nothing half done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, name: str, note: object, descriptor: int | None = None) -> None:
        """Have a note kept, and memory, instead of what was kept under this name. Raises KeeperGone."""
        with self._ask(["put", name, note], descriptor) as connection:
            _done(connection)

    def items(self, prefix: str = "") -> list[Kept]:
        """All that is kept below a name that ends with a slash, or all; descriptors are the caller's.

        Raises:
            KeeperGone: see there.
        """
        found: list[Kept] = []
        try:
            with self._ask(["list", prefix]) as connection:
                while (answer := receive(connection))[0] != ["done"]:
                    (_, name, note), descriptor = answer
                    found.append(Kept(str(name), note, descriptor))
        except BaseException:
            close_all(found)
            raise
        return found

    def look(self) -> None:
        """Raise KeeperGone unless it answers."""
        close_all(self.items("none/"))

    def remove(self, name: str) -> None:
        """Keep nothing under a name any more, or below one that ends with a slash. Raises KeeperGone."""
        with self._ask(["remove", name]) as connection:
            _done(connection)

    def adopt(self, coordinator: int, seconds: float) -> bool:
        """Have it live as long as this coordinator, and `seconds` longer; False: its own lives. Raises KeeperGone."""
        with self._ask(["adopt", coordinator, seconds]) as connection:
            return receive(connection)[0] == ["done"]

    def end(self) -> None:
        """End it, and give all memory back that nobody maps. Raises KeeperGone."""
        with self._ask(["end"]) as connection:
            _done(connection)

    @contextmanager
    def _ask(self, words: list[object], descriptor: int | None = None) -> Iterator[socket.socket]:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as connection:
            connection.settimeout(ANSWER_SECONDS)
            try:
                connection.connect(os.fspath(self._path))
                if owner_of_peer(connection) != os.geteuid():
                    raise PermissionError("it is another user's")
                send(connection, words, descriptor)
                yield connection
            except (OSError, ValueError) as error:
                raise KeeperGone(f"the keeper behind {self._path}: {error}") from error


def close_all(kept: list[Kept]) -> None:
    """Close the descriptors of what was listed."""
    for one in kept:
        if one.descriptor is not None:
            os.close(one.descriptor)


def _done(connection: socket.socket) -> None:
    words, _ = receive(connection)
    if words != ["done"]:
        raise ValueError(f"it answers {words}")
