"""Walks over the weights while nothing is computed, and compares them with digests taken when they had been loaded.

A bit that flips in memory changes answers without a sign. A part is looked at in slices, each with a rest after it, so
that a step that comes meanwhile waits for one slice at most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from numoe.protos.errors import ServiceError

SLICE_BYTES = 1 << 20  # 0.3 ms
BUSY_SECONDS = 0.01  # between two looks whether anything is computed still

Bytes = NDArray[np.uint8]


class WeightsChanged(ServiceError):
    """What was loaded is not what is in memory any more."""


class Verifier:
    """Knows the digests of all parts, by name; parts may come and go while it walks."""

    def __init__(
        self,
        parts: Mapping[str, Bytes],
        seconds: float,
        idle: Callable[[], bool],
        fail: Callable[[BaseException], None],
        known: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Take the digests of parts that have none.

        Args:
            parts: weights that nobody writes any more.
            seconds: that a walk over all of them takes at least.
            idle: whether nothing is computed now.
            fail: told WeightsChanged.
            known: digests of parts, taken when these had been loaded.
        """
        self._seconds, self._idle, self._fail = seconds, idle, fail
        self._lock = threading.Lock()
        with ThreadPoolExecutor() as pool:  # hashing leaves the GIL free
            digests = list(pool.map(lambda name: known.get(name) or _digest(parts[name]), parts))
        self._parts = {name: (part, digest) for (name, part), digest in zip(parts.items(), digests, strict=True)}
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to walk, in a thread."""
        threading.Thread(target=self._run, name="numoe-verify", daemon=True).start()

    def stop(self) -> None:
        """Walk no more."""
        self._over.set()

    @property
    def digests(self) -> dict[str, bytes]:
        """Of every part, by name."""
        with self._lock:
            return {name: digest for name, (_, digest) in self._parts.items()}

    def add(self, name: str, part: Bytes) -> None:
        """A part has come."""
        digest = _digest(part)
        with self._lock:
            self._parts[name] = part, digest

    def remove(self, name: str) -> None:
        """A part is about to go; once this returns, it is read no more."""
        with self._lock:
            self._parts.pop(name, None)

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self.walk()
        except WeightsChanged as changed:
            self._fail(changed)

    def walk(self) -> None:
        """Look at every part once. Raises WeightsChanged."""
        with self._lock:
            known = dict(self._parts)
        size = sum(part.size for part, _ in known.values())
        for name, (part, expected) in known.items():
            self._verify(name, part, expected, self._seconds / max(size, 1))

    def _verify(self, name: str, part: Bytes, expected: bytes, seconds_per_byte: float) -> None:
        hasher, first, digest = blake3(), 0, b""
        while digest == b"":
            with self._lock:
                if name not in self._parts or self._parts[name][0] is not part:
                    return  # it went, and may have come back elsewhere
                if self._idle():
                    size = min(SLICE_BYTES, part.size - first)
                    hasher.update(part[first : first + size].data)
                    first += size
                    digest = hasher.digest() if first == part.size else b""
                    rest = size * seconds_per_byte
                else:
                    rest = BUSY_SECONDS
            if self._over.wait(rest):
                return
        if digest != expected:
            raise WeightsChanged(f"the weights of {name} changed in memory since they were loaded; test the memory")


def _digest(part: Bytes) -> bytes:
    return blake3(part.data).digest()
