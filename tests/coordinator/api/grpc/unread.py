"""A client of gRPC that reads nothing: it speaks just enough HTTP/2 (RFC 9113) to let no byte of an answer be sent."""

from __future__ import annotations

import asyncio
import struct

INITIAL_WINDOW_SIZE = 4  # the setting's number
FRAMES = {"data": 0, "headers": 1, "settings": 4}
END_STREAM, END_HEADERS = 1, 4


async def call_unread(
    address: str, path: str, message: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Makes a call, over a connection of its own. All that comes of it is its headers, which no window bounds."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    writer.write(_frame("settings", 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)))
    writer.write(_frame("headers", END_HEADERS, 1, b"".join(b"\0" + _counted(*field) for field in fields.items())))
    writer.write(_frame("data", END_STREAM, 1, struct.pack(">BI", False, len(message)) + message))  # not compressed
    return reader, writer


def _frame(kind: str, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([FRAMES[kind], flags]) + stream.to_bytes(4, "big") + body


def _counted(*texts: str) -> bytes:
    """Literals as HPACK has them (RFC 7541, 6.2.2), shorter than 127 bytes."""
    return b"".join(bytes([len(text)]) + text.encode() for text in texts)
