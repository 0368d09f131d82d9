"""A fixed pool of requests, asked over gRPC or as OpenAI's clients do, and what each is answered, to the bit."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from numoe.coordinator.measuring.load.questions import WORDS
from numoe.v1.generation_pb2 import GenerateRequest, ResponseOptions, Sampling, Stopping
from tests.coordinator.api.http.http_client import Kept
from tests.system.clients import Client
from tests.system.endurance.service import Service
from tests.system.serve_process import PATIENCE_SECONDS

COUNT = 16
DOORS = ("gRPC", "HTTP")
PROMPT_WORDS = (1, 12, 60, 200, 500)  # one block of KV to many, one step to several
ANSWER_TOKENS = (4, 20, 60, 120)
SHARED_WORDS = 150  # that the longer prompts begin with alike
GREEDY: dict[str, Any] = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
SAMPLINGS: tuple[dict[str, Any], ...] = (
    GREEDY,
    GREEDY | {"temperature": 1.0, "seed": 1},
    GREEDY | {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "seed": 2, "repetition_penalty": 1.1},
    GREEDY | {"temperature": 1.3, "min_p": 0.01, "seed": 2**63},
)


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the pool."""

    prompt: str
    sampling: Mapping[str, Any]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: its text, its tokens as the door tells them, and their log-probabilities."""

    text: str
    tokens: tuple[object, ...]
    logprobs: tuple[float, ...]


Ask = Callable[[Question], Awaitable[Told]]


def pool(seed: int = 0) -> list[Question]:
    """The same for the same seed."""
    chosen = random.Random(seed)
    shared, made = chosen.choices(WORDS, k=SHARED_WORDS), []
    for number in range(COUNT):
        words = chosen.choices(WORDS, k=PROMPT_WORDS[number % len(PROMPT_WORDS)])
        if len(words) > SHARED_WORDS:
            words[:SHARED_WORDS] = shared
        if number % 5 == 1:
            words *= 5  # a text that repeats itself, of which guesses are run
        tokens, sampling = ANSWER_TOKENS[number % len(ANSWER_TOKENS)], SAMPLINGS[number // len(SAMPLINGS)]
        made.append(Question(" ".join(words), sampling, tokens))
    return made


@asynccontextmanager
async def asking(service: Service, door: str) -> AsyncIterator[Ask]:
    """What asks through a door: over gRPC all share a connection, over HTTP each has one, which it keeps."""
    if door == "gRPC":
        yield _over_grpc(service.client)
        return
    connection = Kept(service.server.http, PATIENCE_SECONDS)
    try:
        yield _over_http(connection)
    finally:
        connection.close()


def _over_grpc(client: Client) -> Ask:
    async def ask(question: Question) -> Told:
        stream = client.stream(
            GenerateRequest(
                text=question.prompt,
                sampling=Sampling(**question.sampling),
                stopping=Stopping(max_tokens=question.max_tokens, ignore_eos=True),
                response=ResponseOptions(logprobs=True),
            )
        )
        await stream.finish()
        deltas = [message.delta for message in stream.messages]
        tokens = [token for delta in deltas for token in delta.tokens]
        return Told(
            "".join(delta.text for delta in deltas),
            tuple(token.id for token in tokens),
            tuple(token.logprob for token in tokens),
        )

    return ask


def _over_http(connection: Kept) -> Ask:
    async def ask(question: Question) -> Told:
        settings = {"max_tokens": question.max_tokens, "ignore_eos": True, "stream": True, "logprobs": 0}
        body = {"prompt": question.prompt} | settings | dict(question.sampling)
        reply = await connection.ask("/v1/completions", "POST", json.dumps(body).encode())
        assert reply.status == 200, reply
        *events, done, _ = reply.body.split(b"\n\n")
        assert done == b"data: [DONE]", reply.body[-200:]
        choices = [json.loads(event.removeprefix(b"data: "))["choices"][0] for event in events if event[:1] != b":"]
        assert choices[-1]["finish_reason"] == "length", choices[-1]
        told = [choice["logprobs"] for choice in choices]
        return Told(
            "".join(choice["text"] for choice in choices),
            tuple(token for one in told for token in one["tokens"]),
            tuple(logprob for one in told for logprob in one["token_logprobs"]),
        )

    return ask
