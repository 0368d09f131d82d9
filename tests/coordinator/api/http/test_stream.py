"""The stream: whole parts that have changed, encoded once for all viewers, and small enough for a map of 94 x 128."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from numoe.coordinator.api.http.stream import PartEncoder, message
from numoe.coordinator.operations import operations as module
from numoe.coordinator.operations.expert_map import ExpertPlaces
from numoe.coordinator.operations.snapshot import Flow, History, Service, Snapshot
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.planning.expert_owners import ExpertOwners
from tests.coordinator.api.grpc.grpc_serving import SHAPE, ask, generated, running_server
from tests.coordinator.api.http.http_client import ask as http_ask
from tests.coordinator.api.http.http_client import messages
from tests.coordinator.workers.holders import SHARDS

LAYERS, EXPERTS = 94, 128
OWNERS = tuple(ExpertOwners(tuple(((expert + layer) % 2,) for expert in range(EXPERTS))) for layer in range(LAYERS))
WORKERS = tuple(WorkerPlacement(shard, "ready") for shard in SHARDS)
PLACES = ExpertPlaces(Placement("expert", WORKERS, OWNERS), EXPERTS, [1 << 20] * LAYERS, 0.0)
FLOW = Flow(1, 0, 0.0, 0, {}, 1, 1, 2, 3, 4, 5.0, 6.0, None, None)
HISTORY = History(5.0, 0.0, (), (), (), (), (), (), (), ())


def snapshot(now: float, tokens: int, minutes: int = 5, **changes: Any) -> Snapshot:
    """A second of a service that has run so many tokens, some experts of which are very popular."""
    ranks = np.random.default_rng(0).permuted(np.tile(1.0 / np.arange(1, EXPERTS + 1), (LAYERS, 1)), axis=1)
    counts = (8 * tokens * ranks / ranks.sum(1, keepdims=True)).astype(np.int64)
    recent = PLACES.choices(counts, 10.0)
    lately, ever = PLACES.choices(counts * 30, 300.0), PLACES.choices(counts * 1000, 1e4)
    service = Service("serving", "1", 1, 0.0, "g", "h")
    known: dict[str, Any] = {"lately": lately, "ever": ever} | changes
    return Snapshot(
        now=now, service=service, hosts=(), workers=(), experts=PLACES.map, recent=recent, flow=FLOW, history=HISTORY,
        requests=(), events=(), configuration=(), findings=(), **known,
    )  # fmt: skip


def merged(state: dict[str, Any], sent: bytes) -> dict[str, Any]:
    assert sent.startswith(b"data: ")
    assert sent.endswith(b"\n\n")
    assert sent.count(b"\n") == 2
    told: dict[str, Any] = msgspec.json.decode(sent[6:])
    return state | told


def changed(encoder: PartEncoder, now: Snapshot, seen: Mapping[str, int]) -> tuple[dict[str, bytes], dict[str, int]]:
    parts = encoder.parts(now)
    return (
        {name: part.json for name, part in parts.items() if seen.get(name) != part.version},
        {name: part.version for name, part in parts.items()},
    )


def test_merging_messages_gives_the_snapshot_and_only_what_changed_is_sent() -> None:
    encoder = PartEncoder()
    first = snapshot(1.0, 600)
    sent, seen = changed(encoder, first, {})
    state = merged({}, message(sent))
    assert set(state) == {field.name for field in fields(Snapshot)}
    second = replace(first, now=2.0, flow=replace(FLOW, running=7), requests=())
    sent, _ = changed(encoder, second, seen)
    assert set(sent) == {"now", "flow"}
    assert merged(state, message(sent)) == msgspec.json.decode(msgspec.json.encode(second))


def test_a_viewer_is_encoded_for_once_with_all_others() -> None:
    encoder, now = PartEncoder(), snapshot(1.0, 600)
    assert encoder.parts(now)["recent"] is encoder.parts(now)["recent"]


@pytest.mark.parametrize("tokens", [600, 7_000])  # 10 s of one stream, and of a prompt at full speed
def test_a_map_of_94_layers_of_128_experts_takes_less_than_100_kilobytes_a_second(tokens: int) -> None:
    """Every part that can change every second does, and the slow ones every fifth, as in the service."""
    encoder = PartEncoder()
    _, seen = changed(encoder, snapshot(0.0, tokens), {})
    total = 0
    lately, ever = snapshot(0.0, tokens).lately, snapshot(0.0, tokens).ever
    for second in range(1, 11):
        if second % 5 == 0:
            slow = snapshot(0.0, tokens + second)
            lately, ever = slow.lately, slow.ever
        sent, seen = changed(encoder, snapshot(float(second), tokens + second, lately=lately, ever=ever), seen)
        assert "experts" not in sent
        total += len(message(sent))
    assert total / 10 < 80_000  # which leaves 20 kB for workers and 100 requests


def test_a_very_large_map_is_sent_less_often() -> None:
    places = ExpertPlaces(Placement("tensor", WORKERS, (None,) * 64), 512, [1] * 64, 0.0)
    encoder, seen, times = PartEncoder(), dict[str, int](), []
    for second in range(9):
        now = replace(snapshot(float(second), 1), recent=places.choices(np.full((64, 512), second, np.int64), 10.0))
        sent, seen = changed(encoder, now, seen)
        times += [second] * ("recent" in sent)
    assert times == [0, 2, 4, 6, 8]


async def test_what_comes_over_the_wire_is_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    async with running_server() as running:
        stream = messages(running.ready.http)
        state = await anext(stream)
        await generated(running, ask(max_tokens=4))
        async for told in stream:
            state |= told
            if state["flow"]["ended"] == {"length": 1}:
                break
        await stream.aclose()
        monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)
        whole = (await http_ask(running.ready.http, "/ops/status")).json
    passing = {"prefill_rate", "decode_rate"}  # of the last seconds, which may be others in the next look
    assert {name: value for name, value in whole["flow"].items() if name not in passing} == {
        name: value for name, value in state["flow"].items() if name not in passing
    }
    assert {name: whole[name] for name in ("service", "experts", "configuration")} == {
        name: state[name] for name in ("service", "experts", "configuration")
    }
    counts = state["ever"]["counts"]
    numbers = np.frombuffer(base64.b64decode(counts["data"]), counts["type"]).reshape(counts["shape"])
    assert (numbers == 1).all()
    assert numbers.shape == (SHAPE.layers, SHAPE.experts)
