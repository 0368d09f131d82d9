"""The stream at /ops/stream: the service as server-sent events, once a second, each message what has changed.

    retry: 1000

    data: {"now":1764324001.0,"service":{...},"hosts":[...],"workers":[...], ... all parts}

    data: {"now":1764324002.0,"workers":[...],"recent":{...}}

operations/snapshot.py names the parts and says what their fields mean: they are the fields of its dataclasses. A
message holds whole parts, so `Object.assign(state, JSON.parse(message.data))` keeps a page's state. While the model is
loaded only `now` and `service` come, and `service.loading` tells how far that is; the others follow in the same stream.

An array of experts is {"type":"uint16","shape":[94,128],"data":base64}, little-endian, row after row; its type changes
from message to message with the largest number in it. Where a map is very large, `recent` comes every few seconds.

A viewer that reads slowly misses states, never parts. The stream ends when the service has drained; a page connects
again by itself, as browsers do, and says "stale" while `now` is older than 3 s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields

import msgspec

from numoe.coordinator.api.failures import describe_failure
from numoe.coordinator.operations.operations import LOOK_SECONDS, Operations
from numoe.coordinator.operations.snapshot import Service, Snapshot
from numoe.protos.errors import Unavailable

EVENT_STREAM = "text/event-stream"
RETRY_MILLISECONDS = 1000
QUICK_EXPERTS = 16_384  # of a map whose recent choices come every second: 44 kB in 16 bits; 94 layers of 128 are 12,032

_PARTS = tuple(field.name for field in fields(Snapshot))
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """A part in JSON; its version rises when it changes."""

    version: int
    json: bytes


class PartEncoder:
    """Encodes each snapshot once, however many viewers there are, and knows which parts have changed."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._parts: dict[str, EncodedPart] = {}
        self._recent_at = 0.0

    def parts(self, snapshot: Snapshot) -> Mapping[str, EncodedPart]:
        """All parts of a snapshot; those that are equal to the last one's have its versions."""
        if snapshot is not self._snapshot:
            for name in _PARTS:
                value = getattr(snapshot, name)
                if self._snapshot is None or value is not getattr(self._snapshot, name):
                    self._renew(name, value, snapshot)
            self._snapshot = snapshot
        return self._parts

    def _renew(self, name: str, value: object, snapshot: Snapshot) -> None:
        if name == "recent" and name in self._parts:
            layers, experts = snapshot.recent.counts.shape
            if snapshot.now - self._recent_at < LOOK_SECONDS * (layers * experts // QUICK_EXPERTS):
                return
        if name == "recent":
            self._recent_at = snapshot.now
        json, known = _encode(value), self._parts.get(name)
        if known is None or known.json != json:
            self._parts[name] = EncodedPart(0 if known is None else known.version + 1, json)


def whole(parts: Mapping[str, EncodedPart]) -> bytes:
    """All parts as one JSON object."""
    return _joined({name: part.json for name, part in parts.items()})


def message(parts: Mapping[str, bytes]) -> bytes:
    """Parts in JSON, as one event."""
    return b"data: " + _joined(parts) + b"\n\n"


def _joined(parts: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), json) for name, json in parts.items()) + b"}"


async def events(
    source: Callable[[], Operations], loading: Callable[[], Service], closed: asyncio.Event, encoder: PartEncoder
) -> AsyncIterator[bytes]:
    """What one viewer is sent: of the loading model, then of the service, until that or the door is closed."""
    yield b"retry: %d\n\n" % RETRY_MILLISECONDS
    while not closed.is_set():
        try:
            operations = source()
        except Unavailable:
            yield message({"now": _encode(round(time.time(), 1)), "service": _encode(loading())})
            with suppress(TimeoutError):
                await asyncio.wait_for(closed.wait(), LOOK_SECONDS)
            continue
        try:
            async for changed in _changes(operations, encoder):
                yield changed
        except Exception as error:  # a page has nothing to do with it but to connect again
            describe_failure(error)  # which logs what is a defect of ours
        return


async def _changes(operations: Operations, encoder: PartEncoder) -> AsyncIterator[bytes]:
    seen: dict[str, int] = {}
    async for snapshot in operations.watch():
        parts = encoder.parts(snapshot)
        changed = {name: part.json for name, part in parts.items() if seen.get(name) != part.version}
        seen = {name: part.version for name, part in parts.items()}
        if changed:
            yield message(changed)
