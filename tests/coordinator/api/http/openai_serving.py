"""A service over real HTTP with fake workers that draw letters, and OpenAI's own client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, Running, running_server

MODEL = "tiny qwen3moe"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def asked(**given: Any) -> AsyncIterator[tuple[Running, AsyncOpenAI]]:
    """The service, ready, and a client that asks once."""
    async with running_server(**given) as running, client_of(running) as client:
        yield running, client


def client_of(running: Running) -> AsyncOpenAI:
    url = f"http://{running.ready.http}/v1"
    return AsyncOpenAI(api_key="none", base_url=url, max_retries=0, timeout=PATIENCE_SECONDS)
