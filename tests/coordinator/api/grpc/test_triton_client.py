"""Triton's own client, unchanged, against the real door and engine over fake workers."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from numoe.oip.open_inference_pb2 import DESCRIPTOR
from numoe.v1.generation_pb2 import GenerateRequest, Sampling, Stopping
from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, generated, running_server

MODEL = "tiny qwen3moe"


async def triton_told(address: str) -> dict[str, Any]:
    """What its client is told there."""
    command = ("-W", "ignore", "-m", "tests.coordinator.api.grpc.triton_asking", address, MODEL)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=pipe, stderr=pipe)
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 3 * PATIENCE_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()
    told: dict[str, Any] = json.loads(out)
    return told


def ours() -> dict[str, dict[str, list[object]]]:
    found: dict[str, dict[str, list[object]]] = {}
    messages = list(DESCRIPTOR.message_types_by_name.values())
    while messages:
        message = messages.pop()
        messages += message.nested_types
        found[message.full_name] = {one.name: [one.number, one.type, one.is_repeated] for one in message.fields}
    return found


async def test_tritons_client_is_told_what_numoe_v1_tells() -> None:
    how = {"sampling": Sampling(temperature=0.75, seed=5), "stopping": Stopping(max_tokens=12, ignore_eos=True)}
    async with running_server() as running:
        expected = (await generated(running, GenerateRequest(text="hello", **how))).text  # type: ignore[arg-type]
        told = await triton_told(running.ready.address)
    assert (told["live"], told["ready"], told["model_ready"], told["server"]) == (True, True, [True, False], "numoe")
    assert [tensor["name"] for tensor in told["model"]["inputs"]] == ["text_input"]
    assert [tensor["name"] for tensor in told["model"]["outputs"]] == ["text_output"]
    assert told["whole"] == {"id": "w", "text": expected, "final": True, "reason": "length", "tokens": 12}

    parts = told["parts"]
    assert "".join(part["text"] for part in parts) == expected
    assert {part["id"] for part in parts} == {"s"}
    assert [part["final"] for part in parts] == [False] * (len(parts) - 1) + [True]
    *_, last = told["with_empty_final"]
    assert (last["text"], last["final"], last["reason"]) == (None, True, "length")
    assert "".join(part["text"] for part in told["with_empty_final"][:-1]) == expected

    assert told["refused"].startswith("parameters.max_tokens: is 0")
    assert told["unknown"][0] == "StatusCode.NOT_FOUND"
    assert told["wrong"] == [
        "StatusCode.INVALID_ARGUMENT",
        "parameters.top_p: is 2.0; expected more than 0 and at most 1 (off)",
    ]

    for name, fields in ours().items():
        theirs = told["fields"][name]
        assert {field: theirs.get(field) for field in fields} == fields, name
