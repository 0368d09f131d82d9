"""The keys that are good now: who asks is let in by them, and ends with them.

*Guarantees*: without a file of keys everybody is let in, and asks without a name. With one, whoever shows no good key,
or one without the role, is refused before anything else of his is looked at; how long that takes says nothing about any
key. What a key has open ends when a new file has it no more, or without a role that it had. A broken file changes
nothing.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from numoe.coordinator.access.key_file import Key, digest_of, read_keys
from numoe.coordinator.access.roles import Role, allows
from numoe.protos.errors import PermissionDenied, QueueFull, Unauthenticated

AUTHORIZATION, API_KEY = "authorization", "x-api-key"  # headers: "Bearer KEY", or the key
RETRY_SECONDS = 1.0  # told to a key with as much open as it may; an answer takes seconds

Headers = Callable[[str], Sequence[str]]  # the values of a header, by its name in small letters

_asking: ContextVar[str] = ContextVar("numoe_asking_key", default="")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a new file changed."""

    keys: int  # that are good now
    ended: int  # calls that were open with keys that are not


class KeyRing:
    """Of one service; used in its event loop."""

    def __init__(self, path: Path | None) -> None:
        """`path`: the file of keys; None: nobody is asked for one. Raises SetupError."""
        self._path = path
        self._keys = () if path is None else read_keys(path)
        self._open: dict[asyncio.Task[object], Key] = {}
        self._ended = WeakSet[asyncio.Task[object]]()  # as their key is not good any more

    @property
    def asks(self) -> bool:
        """Whether a key is needed."""
        return self._path is not None

    def admit(self, needed: Role, headers: Headers) -> None:
        """Let the task that answers go on, in which `asking_key` says from now on who asks.

        Raises:
            Unauthenticated: there is no key, or one that is not good.
            PermissionDenied: it has not the role.
            QueueFull: it has as much open as it may.
        """
        if not self.asks or needed is Role.OPEN:
            return
        key = self._find(headers)
        if not allows(key.roles, needed):
            held = ", ".join(sorted(key.roles))
            raise PermissionDenied(f"this needs a key with the role {needed}, and the key {key.name} has {held}")
        task = asyncio.current_task()
        assert task is not None, "both doors answer each call in a task of its own"
        if key.most_open is not None and sum(one.name == key.name for one in self._open.values()) >= key.most_open:
            told = f"the key {key.name} has {key.most_open} requests open, as many as it may; try again in a second"
            raise QueueFull(told, RETRY_SECONDS)
        self._open[task] = key
        task.add_done_callback(self._forget)
        _asking.set(key.name)

    def reload(self) -> Reloaded:
        """Take up the file as it is now. Raises SetupError, and nothing has changed then."""
        assert self._path is not None, "without a file nothing is to be read"
        self._keys = read_keys(self._path)
        now = {key.digest: key for key in self._keys}
        ended = [task for task, key in self._open.items() if _has_lost(key, now.get(key.digest))]
        for task in ended:
            self._ended.add(task)
            task.cancel()
        return Reloaded(len(self._keys), len(ended))

    @contextmanager
    def ending_told(self) -> Iterator[None]:
        """Raises Unauthenticated where a block is cancelled because its key is not good any more."""
        try:
            yield
        except asyncio.CancelledError as cancelled:
            if asyncio.current_task() not in self._ended:
                raise
            raise Unauthenticated("the key is not good any more: ask the operator for a new one") from cancelled

    def _find(self, headers: Headers) -> Key:
        shown = _shown_key(headers)
        if shown is None:
            raise Unauthenticated(f"a key is needed: send it as `{AUTHORIZATION}: Bearer KEY` or `{API_KEY}: KEY`")
        digest, found = digest_of(shown), None
        for key in self._keys:  # all of them, so that the time tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise Unauthenticated("this key is not known here: ask the operator for a new one")
        return found

    def _forget(self, task: asyncio.Task[object]) -> None:
        del self._open[task]


def asking_key() -> str:
    """The name of the key with which the call was made that is being answered; "": nobody is asked for keys."""
    return _asking.get()


def _shown_key(headers: Headers) -> str | None:
    """The key that a call shows; None: none, or several."""
    told = headers(AUTHORIZATION)
    if not told:
        keys = headers(API_KEY)
        return keys[0].strip() if len(keys) == 1 else None
    scheme, _, key = told[0].strip().partition(" ")
    return key.strip() if len(told) == 1 and scheme.lower() == "bearer" else None


def _has_lost(before: Key, now: Key | None) -> bool:
    return now is None or not before.roles <= now.roles
