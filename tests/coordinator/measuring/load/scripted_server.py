"""An HTTP server that answers every question as the test has written, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

MODELS = b'{"object":"list","data":[{"id":"scripted","object":"model"}]}'


@dataclass
class Scripted:
    """What is answered, and what was asked."""

    parts: Iterable[bytes]  # of the answer to a question, as they are sent, head included
    models: bytes = MODELS
    port: int = 0
    heads: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if head.startswith("GET /v1/models "):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(self.models), self.models))
        else:
            length = int(head.lower().partition("content-length:")[2].split()[0])
            self.bodies.append(json.loads(await reader.readexactly(length)))
            for part in self.parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


@asynccontextmanager
async def scripted(*parts: bytes, **more: Any) -> AsyncIterator[Scripted]:
    script = Scripted(parts, **more)
    server = await asyncio.start_server(script.answer, "127.0.0.1", 0)
    script.port = server.sockets[0].getsockname()[1]
    async with server:
        yield script


def stream(*events: object, done: bool = True) -> list[bytes]:
    """Server-sent events in chunks, one of each, as OpenAI's servers send them."""
    data = [b"data: %s\n\n" % json.dumps(event).encode() for event in events] + ([b"data: [DONE]\n\n"] if done else [])
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(one), one) for one in data), b"0\r\n\r\n"]


def refused(status: str, body: bytes) -> list[bytes]:
    return [f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body]


def text(said: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": said}]}


def said(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
