"""Asks a service that speaks OpenAI's HTTP: numoe, llama-server, vLLM and others. One connection for each question."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11

from numoe.coordinator.access.credentials import Access, Trust, client_context
from numoe.coordinator.measuring.load.driving import AskFailed, Hear, Usage
from numoe.coordinator.measuring.load.questions import Question
from numoe.protos.errors import SetupError

READ_BYTES = 1 << 16
LINE_BYTES = 1 << 20  # of an event; longer ones come from no service that speaks this
ERROR_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service is reached."""

    is_encrypted: bool
    host: str
    port: int
    authority: str  # as it stands in the URL
    base: str  # before the paths of its routes

    @property
    def address(self) -> str:
        """Host and port, as for gRPC."""
        return f"{self.host}:{self.port}"


def read_url(url: str) -> Place:
    """Raises SetupError: it is none, or not of HTTP."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise SetupError(f"--url is {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise SetupError(f"--url is {url!r}, expected http://HOST:PORT or https://HOST:PORT")
    is_encrypted = parts.scheme == "https"
    base = parts.path.rstrip("/").removesuffix("/v1")
    return Place(is_encrypted, host, port or (443 if is_encrypted else 80), parts.netloc.rpartition("@")[2], base)


class HttpTarget:
    """At one place."""

    def __init__(self, place: Place, access: Access, model: str, *, chat: bool) -> None:
        """`model`: which to ask for; "": the first that the service lists. Raises SetupError."""
        self._place, self._key, self._model, self._chat = place, access.key, model, chat
        self._context = client_context(access.trust or Trust(None)) if place.is_encrypted else None

    async def find_model(self) -> None:
        """Ask for the first model that the service lists, unless one was named. Raises AskFailed."""
        if self._model:
            return
        body = b"".join([part async for part in self._exchange("GET", "/v1/models", b"")])
        try:
            self._model = str(json.loads(body)["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise AskFailed("the service lists no model: name one with --model") from error

    async def ask(self, question: Question, hear: Hear) -> Usage:
        """Returns once the answer is complete. Raises AskFailed."""
        asked: dict[str, Any] = {
            "model": self._model,
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "top_k": question.top_k,
            "top_p": question.top_p,
            "seed": question.seed,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._chat:
            path, asked["messages"] = "/v1/chat/completions", [{"role": "user", "content": question.prompt}]
        else:
            path, asked["prompt"] = "/v1/completions", question.prompt
        usage = Usage()
        async with aclosing(self._events(path, json.dumps(asked).encode())) as events:
            async for event in events:
                if "error" in event:
                    raise AskFailed(_told(event["error"]))
                if any(map(_has_text, event.get("choices") or ())):
                    hear()
                if counted := event.get("usage"):
                    usage = Usage(counted.get("prompt_tokens"), counted.get("completion_tokens"))
        return usage

    async def _events(self, path: str, body: bytes) -> AsyncGenerator[dict[str, Any], None]:
        """The objects of a stream of server-sent events, until it says that it is done."""
        rest = b""
        async with aclosing(self._exchange("POST", path, body)) as parts:
            async for part in parts:
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > LINE_BYTES:
                    raise AskFailed(f"a line of more than {LINE_BYTES} bytes came")
                for line in lines:
                    data = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:"):
                        continue
                    if data == b"[DONE]":
                        return
                    yield _object(data)
        raise AskFailed("the answer broke off")

    async def _exchange(self, method: str, path: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """The parts of an answer's body, as they come."""
        try:
            reader, writer = await asyncio.open_connection(self._place.host, self._place.port, ssl=self._context)
        except OSError as error:
            raise AskFailed(f"no connection: {error.strerror or error}") from error
        try:
            wire = h11.Connection(h11.CLIENT)
            request = h11.Request(method=method, target=self._place.base + path, headers=self._headers(body))
            for event in (request, h11.Data(body), h11.EndOfMessage()):
                writer.write(wire.send(event) or b"")
            await writer.drain()
            async for part in _body(wire, reader):
                yield part
        except (OSError, h11.RemoteProtocolError) as error:
            raise AskFailed(f"the connection broke: {error}") from error
        finally:
            writer.close()

    def _headers(self, body: bytes) -> list[tuple[str, str]]:
        shown = [("authorization", f"Bearer {self._key}")] if self._key else []
        sent = [("content-type", "application/json"), ("content-length", str(len(body)))]
        return [("host", self._place.authority), ("connection", "close"), ("accept", "*/*"), *sent, *shown]


async def _body(wire: h11.Connection, reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    status, refusal = 0, b""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            if status == 200:
                yield bytes(event.data)
            else:
                refusal = (refusal + bytes(event.data))[:READ_BYTES]
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            if status != 200:
                raise AskFailed(f"{status}: {_refusal(refusal)}")
            return


def _has_text(choice: Any) -> bool:
    """Of a completion, or of a chat: its content, its thoughts, or a call of a tool."""
    said = choice.get("delta") or choice
    return any(said.get(name) for name in ("text", "content", "reasoning_content", "tool_calls"))


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise AskFailed("an event came that is no JSON") from error
    if not isinstance(found, dict):
        raise AskFailed("an event came that is no object")
    return found


def _refusal(body: bytes) -> str:
    try:
        return _told(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        return body.decode(errors="replace")[:ERROR_CHARACTERS]


def _told(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)[:ERROR_CHARACTERS]
