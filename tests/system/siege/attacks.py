"""What hostile clients do: one function each, and how the service may answer it.

An attack is done over and over, each time when the last is over. It returns what came of it: the name of a gRPC status,
or a word of its own; anything that its declaration does not name is a fault of the service.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from numoe.v1.generation_pb2 import (
    ChatMessage,
    ChatRequest,
    DetokenizeRequest,
    GenerateRequest,
    Sampling,
    Stopping,
    TokenIds,
    TokenizeRequest,
)
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from numoe.v1.placement_pb2 import GetPlacementRequest, RebalanceRequest
from numoe.v1.placement_pb2_grpc import PlacementServiceStub
from tests.coordinator.api.grpc.grpc_serving import info_of
from tests.coordinator.api.grpc.odd_calls import call_oddly, framed

ALPHABETS = ("a", " ", "7", "\n", "漢", "\U0001f600", "a b", "<|im_end|>", "\u0301", "\x00\x1b]0;owned\x07", "é!")
ENDLESS = 4000  # tokens: more than an attack waits for
STREAMS = 2  # of each kind that takes places among the 32 of the step
SLOW_SECONDS = 10.0  # that an answer is read slowly
Outcome = str


@dataclass(slots=True)
class Attacker:
    """One hostile client: its connection and its choices."""

    address: str
    http: str  # the address of the other door, which http_attacks.py is about
    random: random.Random

    def channel(self) -> grpc.aio.Channel:
        """A connection of its own."""
        options = [
            *(("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)),
            *(("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)),
        ]
        return grpc.aio.insecure_channel(self.address, options)

    def text(self, size: int) -> str:
        """Text of about so many bytes in UTF-8, all of one pattern."""
        pattern = self.random.choice(ALPHABETS)
        return pattern * (size // len(pattern.encode()))

    async def socket(self) -> asyncio.StreamWriter:
        host, port = self.address.rsplit(":", 1)
        return (await asyncio.open_connection(host, int(port)))[1]


Attack = Callable[[Attacker], Awaitable[Outcome]]
ATTACKS: dict[str, tuple[Attack, frozenset[Outcome]]] = {}


def attack(*allowed: Outcome) -> Callable[[Attack], Attack]:
    """Declares an attack, and what may come of it."""

    def register(function: Attack) -> Attack:
        ATTACKS[function.__name__] = (function, frozenset(allowed))
        return function

    return register


async def outcome_of(call: Any) -> Outcome:
    """The status that a call, of one answer or of many, ends with; a refusal must say its reason."""
    try:
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT and info_of(error)[1] != "numoe":
            return "INVALID_ARGUMENT without ErrorInfo"
        return str(error.code().name)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # it is the attack that ends
        return "CANCELLED"
    return "OK"


@attack("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OK")
async def long_text(attacker: Attacker) -> Outcome:
    """A prompt far beyond any context, up to more than a message may hold; 256 KiB of blanks fit as 4,096 tokens."""
    text = attacker.text(attacker.random.choice((1 << 18, 1 << 20, 4 << 20, 15 << 20, 17 << 20)))
    async with attacker.channel() as channel:
        stub = GenerationServiceStub(channel)
        return await outcome_of(stub.Generate(GenerateRequest(text=text, stopping=Stopping(max_tokens=1))))


@attack("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "CANCELLED", "OK")
async def long_chat(attacker: Attacker) -> Outcome:
    """A conversation of thousands of turns, or of one that is too long; its client goes away at some moment."""
    turns, size = attacker.random.choice(((3000, 10), (1, 5 << 20), (40, 1 << 17), (2, 30000)))
    roles = ("user", "assistant", "system", "\x1b[31m", "")
    messages = [ChatMessage(role=attacker.random.choice(roles), content=attacker.text(size)) for _ in range(turns)]
    async with attacker.channel() as channel:
        call = GenerationServiceStub(channel).Chat(ChatRequest(messages=messages, stopping=Stopping(max_tokens=1)))
        asyncio.get_running_loop().call_later(attacker.random.uniform(0.01, 3.0), call.cancel)
        return await outcome_of(call)


@attack("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
async def tokenizing(attacker: Attacker) -> Outcome:
    """Text as long as Tokenize takes, and longer, with a deadline that often passes."""
    request = TokenizeRequest(text=attacker.text(attacker.random.choice((1 << 16, 1 << 20, 8 << 20))))
    async with attacker.channel() as channel:
        stub = GenerationServiceStub(channel)
        return await outcome_of(stub.Tokenize(request, timeout=attacker.random.choice((0.2, 5.0))))


@attack("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
async def many_ids(attacker: Attacker) -> Outcome:
    """Millions of token ids: as a prompt, as stop tokens, to make text of."""
    ids = [attacker.random.randrange(1000)] * attacker.random.choice((100_000, 1_000_000, 3_000_000))
    async with attacker.channel() as channel:
        stub = GenerationServiceStub(channel)
        kind = attacker.random.randrange(3)
        if kind == 0:
            return await outcome_of(stub.Detokenize(DetokenizeRequest(ids=ids)))
        if kind == 1:
            return await outcome_of(stub.Generate(GenerateRequest(token_ids=TokenIds(ids=ids))))
        return await outcome_of(stub.Generate(GenerateRequest(text="a", stopping=Stopping(stop_token_ids=ids))))


@attack("held", "RESOURCE_EXHAUSTED")
async def never_reading(attacker: Attacker) -> Outcome:
    """Long answers of which nothing is read, without a deadline."""
    async with attacker.channel() as channel:
        stub = GenerationServiceStub(channel)
        calls = [stub.Generate(_endless(attacker)) for _ in range(STREAMS)]
        try:
            for call in calls:
                await call.read()
            await asyncio.sleep(20.0)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        finally:
            for call in calls:
                call.cancel()
    return "held"


@attack("held", "RESOURCE_EXHAUSTED")
async def reading_slowly(attacker: Attacker) -> Outcome:
    """A long answer of which one message is read now and then."""
    async with attacker.channel() as channel:
        call = GenerationServiceStub(channel).Generate(_endless(attacker))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(SLOW_SECONDS):
                    while True:
                        await call.read()
                        await asyncio.sleep(0.5)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        finally:
            call.cancel()
    return "held"


@attack("cancelled", "RESOURCE_EXHAUSTED")
async def cancelling(attacker: Attacker) -> Outcome:
    """Requests that end at any moment of their life, by their client, a broken connection or a deadline."""
    async with attacker.channel() as channel:
        stub = GenerationServiceStub(channel)
        call = stub.Generate(_endless(attacker), timeout=attacker.random.choice((None, 0.001, 0.05, 0.3)))
        with suppress(TimeoutError):
            async with asyncio.timeout(attacker.random.uniform(0.0, 0.4)):
                await outcome_of(call)
        if attacker.random.random() < 0.5:
            call.cancel()
    return "cancelled"


@attack("OK", "RESOURCE_EXHAUSTED")
async def drawing_flat(attacker: Attacker) -> Outcome:
    """Draws from a distribution that is nearly flat, of which nearly all is kept."""
    sampling = Sampling(temperature=100.0, top_p=0.99, min_p=0.0, seed=attacker.random.getrandbits(64))
    request = GenerateRequest(text="a", sampling=sampling, stopping=Stopping(max_tokens=50, ignore_eos=True))
    async with attacker.channel() as channel:
        return await outcome_of(GenerationServiceStub(channel).Generate(request))


@attack("answered or refused")
async def flooding(attacker: Attacker) -> Outcome:
    """More requests at once than the queue holds."""
    request = GenerateRequest(text="a", stopping=Stopping(max_tokens=1))
    async with attacker.channel() as channel:
        stub = GenerationServiceStub(channel)
        ends = set(await asyncio.gather(*[outcome_of(stub.Generate(request)) for _ in range(200)]))
    await asyncio.sleep(5.0)
    return "answered or refused" if ends <= {"OK", "RESOURCE_EXHAUSTED"} else f"{sorted(ends)}"


@attack("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
async def nonsense(attacker: Attacker) -> Outcome:
    """Fields that mean nothing."""
    requests: Sequence[GenerateRequest] = (
        GenerateRequest(),
        GenerateRequest(text="a", sampling=Sampling(temperature=float("nan"))),
        GenerateRequest(text="a", sampling=Sampling(temperature=-1.0)),
        GenerateRequest(text="a", sampling=Sampling(top_p=float("inf"))),
        GenerateRequest(text="a", sampling=Sampling(repetition_penalty=0.0)),
        GenerateRequest(text="a", stopping=Stopping(max_tokens=0)),
        GenerateRequest(text="a", stopping=Stopping(stop=[""])),
        GenerateRequest(text="a", stopping=Stopping(stop=["x"] * 17)),
        GenerateRequest(text="a", stopping=Stopping(stop=["漢" * 5000])),
        GenerateRequest(text="a", request_id="x" * 129),
        GenerateRequest(text="a", request_id="\x1b[2J"),
        GenerateRequest(text="a", model="漢" * 3000),
        GenerateRequest(token_ids=TokenIds(ids=[2**32 - 1])),
        GenerateRequest(token_ids=TokenIds()),
    )
    async with attacker.channel() as channel:
        return await outcome_of(GenerationServiceStub(channel).Generate(attacker.random.choice(requests)))


@attack("UNIMPLEMENTED", "OK", "INVALID_ARGUMENT", "NOT_FOUND")
async def garbage(attacker: Attacker) -> Outcome:
    """Bytes that are no message, to methods that are there and that are not."""
    methods = ("GenerationService/Generate", "PlacementService/GetPlacement", "Nobody/Nothing")
    method = attacker.random.choice((*(f"numoe.v1.{name}" for name in methods), "grpc.health.v1.Health/Check"))
    async with attacker.channel() as channel:
        call: Any = channel.unary_stream(f"/{method}")
        return await outcome_of(call(attacker.random.randbytes(attacker.random.choice((1, 10, 100_000)))))


@attack("closed")
async def idle_connections(attacker: Attacker) -> Outcome:
    """Connections that say nothing, or speak another protocol."""
    said = (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    writers = []
    with suppress(OSError):
        for _ in range(200):
            writers.append(await attacker.socket())
            writers[-1].write(attacker.random.choice((*said, attacker.random.randbytes(300))))
    await asyncio.sleep(2.0)
    for writer in writers:
        writer.transport.abort()
    return "closed"


@attack("watched", "RESOURCE_EXHAUSTED")
async def watching(attacker: Attacker) -> Outcome:
    """Hundreds of watches of the service's health."""
    async with attacker.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        calls = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(300)]
        try:
            await asyncio.gather(*[call.read() for call in calls])
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        await asyncio.sleep(5.0)
    return "watched"


@attack("held")
async def leaving_no_room(attacker: Attacker) -> Outcome:
    """Calls of which no byte of the answer can be sent, as their client's window is of none."""
    methods = ("grpc.health.v1.Health/Watch", "grpc.health.v1.Health/Check", "numoe.v1.OperationsService/WatchStatus")
    asked = [(f"/{method}", b"") for method in methods] * 20
    asked += [("/numoe.v1.GenerationService/Generate", _endless(attacker).SerializeToString())] * STREAMS
    writers = []
    with suppress(OSError):
        for path, message in asked:
            writers.append((await call_oddly(attacker.address, path, framed(message), room=0))[1])
    await asyncio.sleep(SLOW_SECONDS)
    for writer in writers:
        writer.transport.abort()
    return "held"


@attack("held")
async def sending_halves(attacker: Attacker) -> Outcome:
    """Calls whose message never comes, or not to its end."""
    methods = ("grpc.health.v1.Health/Check", "numoe.v1.GenerationService/Generate", "numoe.v1.ModelService/GetModel")
    half, writers = framed(bytes(100_000))[:50_000], []
    with suppress(OSError):
        for path in [f"/{method}" for method in methods] * 70:
            data = attacker.random.choice((half, half[:3], b""))
            writers.append((await call_oddly(attacker.address, path, data, ends=attacker.random.random() < 0.2))[1])
    await asyncio.sleep(SLOW_SECONDS)
    for writer in writers:
        writer.transport.abort()
    return "held"


@attack("OK", "CANCELLED", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
async def operating(attacker: Attacker) -> Outcome:
    """An operator's calls, many at once, of workers that are there and that are not."""
    async with attacker.channel() as channel:
        stub = PlacementServiceStub(channel)
        await asyncio.gather(*[outcome_of(stub.GetPlacement(GetPlacementRequest())) for _ in range(8)])
        drained = attacker.random.choice((None, 1, 2**32 - 1))
        return await outcome_of(stub.Rebalance(RebalanceRequest(drain_worker=drained)))


def _endless(attacker: Attacker) -> GenerateRequest:
    sampling = Sampling(temperature=1.0, seed=attacker.random.getrandbits(64))
    return GenerateRequest(text="a b c", sampling=sampling, stopping=Stopping(max_tokens=ENDLESS, ignore_eos=True))
