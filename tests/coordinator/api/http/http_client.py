"""Clients of the HTTP door, on real sockets: one request on each connection, or many on one that is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Kept:
    """A connection that is kept from one request to the next, as clients of OpenAI and Anthropic keep theirs.

    The answer is read while the body is sent: one that comes early is not lost with what is never read of the body.
    """

    def __init__(self, address: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._address, self._patience_seconds = address, patience_seconds
        self._open: tuple[h11.Connection, asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Reply:
        """One request; it connects anew where the door ended the connection after the last answer."""
        told = {"host": self._address, "content-length": str(len(body))}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with asyncio.timeout(self._patience_seconds):
            wire, reader, writer = self._open or await self._connect()
            self._open = None
            for event in (h11.Request(method=method, target=path, headers=[*told.items()]), h11.Data(body)):
                writer.write(wire.send(event) or b"")
            wire.send(h11.EndOfMessage())
            status, about, parts = await _answer_on(wire, reader)
        if wire.our_state is h11.DONE and wire.their_state is h11.DONE:
            wire.start_next_cycle()
            self._open = wire, reader, writer
        else:
            writer.close()
        return Reply(status, about, parts)

    async def _connect(self) -> tuple[h11.Connection, asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self._address.rpartition(":")
        return h11.Connection(h11.CLIENT), *await asyncio.open_connection(host.strip("[]"), int(port))

    def close(self) -> None:
        if self._open is not None:
            self._open[2].close()


async def _answer_on(wire: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status, about, body = 0, dict[str, str](), bytearray()
    while True:
        match wire.next_event():
            case h11.NEED_DATA:
                wire.receive_data(await reader.read(1 << 16))
            case h11.Response(status_code=status, headers=headers):
                about = {name.decode(): value.decode() for name, value in headers}
            case h11.Data(data=data):
                body += data
            case h11.EndOfMessage():
                return status, about, bytes(body)


async def ask(address: str, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Reply:
    """One request; underscores in the names of headers are dashes."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with _sent(address, path, method, body, headers) as reader:
            status, told = await _read_head(reader)
            return Reply(status, told, await reader.read())


async def order(address: str, action: str, content: object, **headers: str) -> Reply:
    """An action, as the page sends it."""
    sent = {"content_type": "application/json"} | headers
    return await ask(address, f"/ops/actions/{action}", "POST", json.dumps(content).encode(), **sent)


async def head(address: str, path: str, method: str, body: bytes, **headers: str) -> tuple[int, Mapping[str, str]]:
    """Status and headers of an answer, which may have no end."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with _sent(address, path, method, body, headers) as reader:
            return await _read_head(reader)


async def messages(address: str, **headers: str) -> AsyncGenerator[dict[str, Any], None]:
    """The messages of the stream, until it ends."""
    async with _sent(address, "/ops/stream", "GET", b"", headers) as reader:
        status, told = await _read_head(reader)
        assert (status, told["content-type"].partition(";")[0]) == (200, "text/event-stream")
        while line := await asyncio.wait_for(reader.readline(), PATIENCE_SECONDS):
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


@asynccontextmanager
async def _sent(
    address: str, path: str, method: str, body: bytes, headers: Mapping[str, str]
) -> AsyncIterator[asyncio.StreamReader]:
    """By HTTP/1.0, so that the answer ends with the connection and comes in one piece; closed after the block."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=1 << 24)
    told = {"host": address, "content-length": str(len(body))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.0", *(f"{name}: {value}" for name, value in told.items()), "", ""]
    try:
        writer.write("\r\n".join(lines).encode("latin-1") + body)
        await writer.drain()
        yield reader
    finally:
        writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}
