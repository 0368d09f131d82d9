"""Whose key is shown takes turns in the queue with others, by whichever door he comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from numoe.coordinator.access.key_file import add_key
from numoe.coordinator.access.roles import Role
from tests.coordinator.access.made_keys import asking, shown
from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    Running,
    ask,
    read_all,
    running_server,
    settings_of,
    small_workers,
    until,
)
from tests.coordinator.api.http import http_client
from tests.coordinator.engine.serving import Gate

Door = Callable[[Running, str, list[int]], Awaitable[None]]
PROMPT_TOKENS = 150  # one such request takes more than half of what a key may have before others' turn


async def over_grpc(running: Running, key: str, prompt: list[int]) -> None:
    call = running.generation.Generate(ask(prompt, 2), metadata=shown(key), timeout=PATIENCE_SECONDS)
    assert (await read_all(call)).finished


async def over_http(running: Running, key: str, prompt: list[int]) -> None:
    body = json.dumps({"prompt": prompt, "max_tokens": 2, "ignore_eos": True}).encode()
    reply = await http_client.ask(running.ready.http, "/v1/completions", "POST", body, authorization=f"Bearer {key}")
    assert reply.status == 200


@pytest.mark.parametrize(("many", "few"), [(over_http, over_grpc), (over_grpc, over_http), (over_http, over_http)])
async def test_who_asks_once_waits_for_one_of_those_who_ask_often(many: Door, few: Door, tmp_path: Path) -> None:
    alice, bob = (add_key(tmp_path / "keys", name, [Role.INFER], None) for name in ("alice", "bob"))
    gate = Gate(0)
    workers = small_workers(before_collect=gate)
    asked = [(many, alice, 5), (many, alice, 6), (many, alice, 7), (few, bob, 8)]
    async with running_server(workers, asking(settings_of(), tmp_path / "keys")) as running:
        tasks = []
        for door, key, token in asked:
            tasks.append(asyncio.ensure_future(door(running, key, [token] * PROMPT_TOKENS)))
            await until(lambda: sum(running.busy()[:2]) == len(tasks))
        named = [status.client for status in running.coordinator.served_model().engine.requests()]
        gate.open()
        await asyncio.gather(*tasks)
    assert sorted(named) == ["alice", "alice", "alice", "bob"]
    first = [chunk.token_ids[0] for step in workers.steps for chunk in step.chunks if chunk.first_position == 0]
    assert first.index(8) < first.index(7)
