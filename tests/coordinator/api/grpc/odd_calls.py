"""Calls that no library of gRPC makes: just enough HTTP/2 (RFC 9113) for a client that does not do its part."""

from __future__ import annotations

import asyncio
import struct

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
INITIAL_WINDOW_SIZE = 4  # the setting's number
ROOM = 65_535  # bytes that may be sent, unless it is said
FRAMES = {"data": 0, "headers": 1, "settings": 4}
END_STREAM, END_HEADERS = 1, 4


async def call_oddly(
    address: str, path: str, data: bytes = b"", *, ends: bool = True, room: int = ROOM, **headers: str
) -> Pair:
    """Makes a call, over a connection of its own, with some data, which `ends` it, and `room` for its answer.

    Of an answer without any room only the headers come, which nothing bounds. Headers are sent in Latin-1.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address}
    fields |= {"te": "trailers", "content-type": "application/grpc"} | headers
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    writer.write(_frame("settings", 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, room)))
    writer.write(_frame("headers", END_HEADERS, 1, b"".join(b"\0" + _counted(*field) for field in fields.items())))
    writer.write(_frame("data", END_STREAM if ends else 0, 1, data))
    return reader, writer


def framed(message: bytes) -> bytes:
    """A message as data, not compressed."""
    return struct.pack(">BI", False, len(message)) + message


def _frame(kind: str, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([FRAMES[kind], flags]) + stream.to_bytes(4, "big") + body


def _counted(*texts: str) -> bytes:
    """Literals as HPACK has them (RFC 7541, 6.2.2), shorter than 127 bytes."""
    return b"".join(bytes([len(text)]) + text.encode("latin-1") for text in texts)
