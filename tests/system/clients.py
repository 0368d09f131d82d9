"""Clients of a served tiny model: requests that last as long as a test needs, streams, health, worker processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from numoe.v1.generation_pb2 import GenerateRequest, GenerateResponse, Sampling, Stopping, TokenIds
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from numoe.v1.placement_pb2 import GetPlacementRequest, GetPlacementResponse
from numoe.v1.placement_pb2_grpc import PlacementServiceStub
from tests.system.serve_process import PATIENCE_SECONDS
from tests.tiny_model import TinyShape

CONTEXT_TOKENS, ENDLESS = 65536, 60000  # a stream of so many tokens takes minutes: no test waits that long for it
SHAPE = TinyShape(context_length=CONTEXT_TOKENS)
SERVE_FLAGS = (
    *("--address", "127.0.0.1:0", "--workers", "2", "--threads-per-worker", "1"),
    *("--sequences", "2", "--context-tokens", str(CONTEXT_TOKENS), "--kv-tokens", str(2 * CONTEXT_TOKENS)),
)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def ask(tokens: int, prompt: Sequence[int] = (1, 2, 3), seed: int = 7) -> GenerateRequest:
    """A request for that many tokens, drawn with a seed."""
    return GenerateRequest(
        token_ids=TokenIds(ids=prompt),
        sampling=Sampling(temperature=1.0, seed=seed),
        stopping=Stopping(max_tokens=tokens, ignore_eos=True),
    )


@dataclass(slots=True)
class Stream:
    """One Generate call, read message by message."""

    call: Any
    messages: list[GenerateResponse] = field(default_factory=list)
    resumed_at: float = 0.0  # when it told so first; 0: it did not
    ended_at: float = 0.0

    async def read_until(self, kind: str) -> None:
        """Reads on, to the next message of this kind."""
        while not self.messages or self.messages[-1].WhichOneof("event") != kind:
            self.messages.append(await self._next())

    async def _next(self) -> GenerateResponse:
        async with asyncio.timeout(PATIENCE_SECONDS):
            message = await self.call.read()
        assert isinstance(message, GenerateResponse), f"ended after {self.messages[-1:]}"
        return message

    async def first_tokens(self, count: int) -> list[int]:
        """As many tokens, of a stream that goes on."""
        while len(self.tokens) < count:
            self.messages.append(await self._next())
        return self.tokens[:count]

    async def finish(self) -> list[int]:
        """All tokens; the stream must end well."""
        await self._read_to_the_end()
        assert await self.call.code() is grpc.StatusCode.OK, await self.call.details()
        assert self.messages[-1].HasField("finished")
        return self.tokens

    async def fail(self) -> grpc.aio.AioRpcError:
        """What the stream ended with; it must not end well."""
        try:
            await self._read_to_the_end()
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the stream ended well")

    async def _read_to_the_end(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (message := await self.call.read()) is not grpc.aio.EOF:
                    self.messages.append(message)
                    if message.HasField("resumed") and not self.resumed_at:
                        self.resumed_at = time.monotonic()
        finally:
            self.ended_at = time.monotonic()

    @property
    def tokens(self) -> list[int]:
        return [token.id for message in self.messages for token in message.delta.tokens]


@dataclass(frozen=True, slots=True)
class Client:
    """One connection."""

    channel: grpc.aio.Channel

    def stream(self, request: GenerateRequest, timeout: float | None = None) -> Stream:
        return Stream(GenerationServiceStub(self.channel).Generate(request, timeout=timeout))

    async def tokens(self, request: GenerateRequest) -> list[int]:
        return await self.stream(request).finish()

    async def endless(self, seed: int = 1) -> Stream:
        """A stream at work, which only its client or a fault will end."""
        stream = self.stream(ask(ENDLESS, seed=seed))
        await stream.read_until("delta")
        return stream

    async def begin_of(self, seed: int, count: int) -> list[int]:
        """The first tokens of the endless stream of this seed."""
        stream = await self.endless(seed)
        tokens = await stream.first_tokens(count)
        stream.call.cancel()
        return tokens

    async def placement(self) -> GetPlacementResponse:
        """Where everything lies."""
        answer = await PlacementServiceStub(self.channel).GetPlacement(GetPlacementRequest())
        assert isinstance(answer, GetPlacementResponse)
        return answer

    async def workers(self) -> list[int]:
        """Process ids."""
        return [worker.pid for worker in (await self.placement()).workers]

    def health(self) -> HealthWatch:
        return HealthWatch(health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest()))


@dataclass(frozen=True, slots=True)
class HealthWatch:
    """The health of the whole service, change by change."""

    call: Any

    async def becomes(self, state: int) -> None:
        """The next change must be to this state."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await self.call.read()).status == state


@asynccontextmanager
async def full(client: Client) -> AsyncIterator[tuple[list[Stream], Stream]]:
    """Two requests at work and one that waits: as many as SERVE_FLAGS and a queue of one hold."""
    running = [await client.endless(seed) for seed in range(2)]
    waiting = client.stream(ask(ENDLESS))
    await waiting.read_until("accepted")
    try:
        yield running, waiting
    finally:
        for stream in (*running, waiting):
            stream.call.cancel()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Client(channel)
