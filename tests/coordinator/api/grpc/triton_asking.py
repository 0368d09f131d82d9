"""Triton's own client, unchanged, and what it is told: a program, as two definitions of a protocol go into no process.

python -m tests.coordinator.api.grpc.triton_asking ADDRESS MODEL
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

SECONDS = 30.0
PROMPT = "hello"
HOW = {"max_tokens": 12, "temperature": 0.75, "seed": 5, "ignore_eos": True}  # 0.75 is the same in 32 bits as in 64


def main(address: str, model: str) -> dict[str, Any]:
    """All that is told."""
    client = triton.InferenceServerClient(address)
    try:
        told = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": [client.is_model_ready(name) for name in (model, "another")],
            "server": client.get_server_metadata(as_json=True)["name"],
            "model": client.get_model_metadata(model, as_json=True),
            "whole": part_of(client.infer(model, [text()], request_id="w", parameters=HOW, client_timeout=SECONDS)),
            "unknown": refusal(client, "another", {}),
            "wrong": refusal(client, model, HOW | {"top_p": 2.0}),
        }
        return told | streams(client, model) | {"fields": fields()}
    finally:
        client.close()


def streams(client: Any, model: str) -> dict[str, Any]:
    """Three requests in one stream, of which the second is refused."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer(model, [text()], request_id="s", parameters=HOW)
    parts = parts_of_one(answers)
    client.async_stream_infer(model, [text()], request_id="bad", parameters={"max_tokens": 0})
    _, error = answers.get(timeout=SECONDS)
    client.async_stream_infer(model, [text()], request_id="e", parameters=HOW, enable_empty_final_response=True)
    with_empty_final = parts_of_one(answers)
    client.stop_stream()
    return {"parts": parts, "refused": error.message(), "with_empty_final": with_empty_final}


def parts_of_one(answers: queue.Queue[tuple[Any, Any]]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    while not parts or not parts[-1]["final"]:
        result, error = answers.get(timeout=SECONDS)
        if error is not None:
            raise error
        parts.append(part_of(result))
    return parts


def text() -> Any:
    tensor = triton.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([PROMPT.encode()], dtype=np.object_))
    return tensor


def part_of(result: Any) -> dict[str, Any]:
    response, output = result.get_response(), result.as_numpy("text_output")
    told = response.parameters
    return {
        "id": response.id,
        "text": None if output is None else output[0].decode(),
        "final": told["triton_final_response"].bool_param,
        "reason": told["finish_reason"].string_param,
        "tokens": told["completion_tokens"].int64_param,
    }


def refusal(client: Any, model: str, how: dict[str, Any]) -> list[str]:
    try:
        client.infer(model, [text()], parameters=how, client_timeout=SECONDS)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    raise AssertionError("it was not refused")


def fields() -> dict[str, dict[str, list[object]]]:
    """Of every message of theirs each field's number, type and label."""
    told: dict[str, dict[str, list[object]]] = {}
    messages = list(service_pb2.DESCRIPTOR.message_types_by_name.values())
    while messages:
        message = messages.pop()
        messages += message.nested_types
        told[message.full_name] = {one.name: [one.number, one.type, one.is_repeated] for one in message.fields}
    return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
