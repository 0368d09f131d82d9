"""Requests that their clients give up: through which door, how and when."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from numoe.v1.generation_pb2 import GenerateRequest, Sampling, Stopping, TokenIds
from numoe.v1.operations_pb2 import AbortRequestRequest
from numoe.v1.operations_pb2_grpc import OperationsServiceStub
from tests.coordinator.api.http.http_client import order
from tests.system.clients import connected
from tests.system.endurance.service import Service
from tests.system.serve_process import PATIENCE_SECONDS

PROMPT_TOKENS = (1, 70, 700, 4000)  # some are read in a step, others take several
ANSWER_TOKENS = 4000  # more than anybody waits for
LATEST_SECONDS = 0.8  # after it was asked, a request is given up
VOCABULARY = 300  # of all token ids, those that prompts are made of


@dataclass(frozen=True, slots=True)
class Victim:
    """One request, and how it will end."""

    id: str
    way: str  # of WAYS
    prompt: tuple[int, ...]
    seed: int
    after_seconds: float  # that it is given up


GiveUp = Callable[[Service, Victim], Awaitable[float]]


def make_victim(number: int, chosen: random.Random) -> Victim:
    """Any of them."""
    prompt = tuple(chosen.choices(range(VOCABULARY), k=chosen.choice(PROMPT_TOKENS)))
    way = chosen.choice(list(WAYS))
    return Victim(f"victim-{number}", way, prompt, chosen.getrandbits(32), chosen.uniform(0.0, LATEST_SECONDS))


async def give_up(service: Service, victim: Victim) -> float:
    """Ask, and give up; returns when that was, as Unix time."""
    return await WAYS[victim.way](service, victim)


def _message(victim: Victim) -> GenerateRequest:
    return GenerateRequest(
        request_id=victim.id,
        token_ids=TokenIds(ids=victim.prompt),
        sampling=Sampling(temperature=1.0, seed=victim.seed),
        stopping=Stopping(max_tokens=ANSWER_TOKENS, ignore_eos=True),
    )


async def _cancelled(service: Service, victim: Victim) -> float:
    stream = service.client.stream(_message(victim))
    async with _reading(victim, stream.fail()):
        at = time.time()
        stream.call.cancel()
    return at


async def _past_deadline(service: Service, victim: Victim) -> float:
    at = time.time() + victim.after_seconds
    error = await service.client.stream(_message(victim), timeout=victim.after_seconds).fail()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error
    return at


async def _connection_lost(service: Service, victim: Victim) -> float:
    async with (
        connected(service.server.address) as client,
        _reading(victim, client.stream(_message(victim)).fail()),
    ):
        at = time.time()
        await client.channel.close()
    return at


async def _aborted(service: Service, victim: Victim) -> float:
    """By an operator; one that was not there yet is given up with its call."""
    stream = service.client.stream(_message(victim))
    async with _reading(victim, stream.fail()):
        at = time.time()
        operations = OperationsServiceStub(service.client.channel)
        if not (await operations.AbortRequest(AbortRequestRequest(request_id=victim.id))).aborted:
            stream.call.cancel()
    return at


@asynccontextmanager
async def _reading(victim: Victim, reading: Coroutine[None, None, object]) -> AsyncIterator[None]:
    """Has an answer read while it is waited for; the block must end it."""
    task = asyncio.create_task(reading)
    await asyncio.wait([task], timeout=victim.after_seconds)
    assert not task.done(), f"ended before {victim} was given up: {task}"
    yield
    await asyncio.wait([task], timeout=PATIENCE_SECONDS)
    assert task.done(), f"{victim} goes on"
    if not task.cancelled():
        task.exception()  # what a client is told who does not listen any more is nobody's matter


def _over_http(end: Callable[[Service, Victim, asyncio.StreamWriter], Awaitable[None]], *, stream: bool) -> GiveUp:
    async def ask(service: Service, victim: Victim) -> float:
        host, _, port = service.server.http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        settings = {"max_tokens": ANSWER_TOKENS, "ignore_eos": True, "temperature": 1.0, "seed": victim.seed}
        body = json.dumps({"prompt": victim.prompt, "stream": stream} | settings).encode()
        lines = ("POST /v1/completions HTTP/1.1", f"host: {service.server.http}", f"content-length: {len(body)}")
        head = "\r\n".join((*lines, f"x-request-id: {victim.id}", "", ""))
        writer.write(head.encode() + body)
        async with _reading(victim, reader.read(-1)):
            at = time.time()
            await end(service, victim, writer)
        return at

    return ask


async def _close(service: Service, victim: Victim, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _reset(service: Service, victim: Victim, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _abort_by_post(service: Service, victim: Victim, writer: asyncio.StreamWriter) -> None:
    await order(service.server.http, "abort", {"request_id": victim.id})
    writer.close()


WAYS: dict[str, GiveUp] = {
    "gRPC cancelled": _cancelled,
    "gRPC deadline": _past_deadline,
    "gRPC connection": _connection_lost,
    "gRPC abort": _aborted,
    "HTTP stream closed": _over_http(_close, stream=True),
    "HTTP stream reset": _over_http(_reset, stream=True),
    "HTTP answer closed": _over_http(_close, stream=False),
    "HTTP abort": _over_http(_abort_by_post, stream=True),
}
