"""Whatever a body is, it is answered in time, never by a failure of ours, and the service goes on serving."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from tests.coordinator.api.grpc.grpc_serving import fake_workers, running_server
from tests.coordinator.api.http.http_client import ask
from tests.coordinator.tiny_tokenizer import ALL_IDS

BODIES = 400  # to each of five paths
SECONDS = 2.0  # for one answer, on a machine that does other things
DEEP = b"[" * 100_000
TURNS: Any = [
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "x"},
]
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
SHARED: Any = {"max_tokens": 2, "temperature": 0.5, "n": 1, "stop": ["x"], "stream": False, "top_p": 0.9, "seed": 1}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}}
VALID: dict[str, Any] = {
    "/v1/chat/completions": SHARED
    | {
        "messages": TURNS,
        "tools": TOOLS,
        "tool_choice": "auto",
        "response_format": FORM,
        "chat_template_kwargs": {"a": {"b": [1]}},
    },
    "/v1/completions": SHARED | {"prompt": ["ab", [1, 2]], "logprobs": 0, "logit_bias": {"5": 1.0}},
    "/v1/messages": {
        "max_tokens": 2,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "y"}]},
        ],
        "system": "s",
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "thinking": {"type": "enabled", "budget_tokens": 5},
    },
    "/tokenize": {"content": "ab", "with_pieces": True},
    "/apply-template": {"messages": TURNS, "tools": TOOLS},
}
JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e308, -0.0, "", "x" * 9000, "\ud800", "\x00<|im_end|>", "{{ 1 }}",
    [], [[]], [["a"]] * 9, [None] * 99, {}, {"": {}}, {"role": "user"}, {"type": "object", "$ref": "#"},
)  # fmt: skip


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in plain data, as a container and a key."""
    keys = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in keys:
        yield data, key
        yield from places(value)


def malformed(valid: Any, chosen: random.Random) -> bytes:
    """A body with a value replaced or gone, or with its bytes cut, turned over or nested without end."""
    body = json.loads(json.dumps(valid))
    for _ in range(chosen.randint(1, 3)):
        container, key = chosen.choice(list(places(body)) or [({"": 0}, "")])
        if chosen.random() < 0.2:
            del container[key]
        else:
            container[key] = deepcopy(chosen.choice(JUNK))
    data = bytearray(json.dumps(body).encode())
    match chosen.randrange(8):
        case 0:
            data = data[: chosen.randrange(len(data))]
        case 1:
            data[chosen.randrange(len(data))] = chosen.randrange(256)
        case 2:
            at = chosen.randrange(len(data))
            data[at:at] = DEEP[: chosen.choice((10, 2000, len(DEEP)))]
    return bytes(data)


@pytest.mark.parametrize("path", VALID)
async def test_malformed_bodies_never_are_a_failure_of_ours(path: str) -> None:
    chosen = random.Random(path)
    statuses = set()
    async with running_server(fake_workers(ALL_IDS)) as running:
        http = running.ready.http
        assert (await ask(http, path, "POST", json.dumps(VALID[path]).encode())).status in (200, 400)
        for _ in range(BODIES):
            body, began = malformed(VALID[path], chosen), time.monotonic()
            reply = await ask(http, path, "POST", body)
            assert time.monotonic() - began < SECONDS, body
            assert reply.status in (200, 400, 404), (reply.status, body)
            assert b"incident" not in reply.body
            statuses.add(reply.status)
        assert (await ask(http, "/v1/models")).status == 200
    assert {200, 400} <= statuses
