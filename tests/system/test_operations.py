"""What operators see of real workers: where they are, what they do, that they die and come back, that experts move."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.coordinator.api.http.http_client import messages, order
from tests.system.clients import SERVE_FLAGS, SHAPE, ask, connected
from tests.system.serve_process import ServeProcess, serving

PROMPT, ANSWER = 3, 60
State = dict[str, Any]


@pytest.fixture(scope="module")
def server(served_model: Path) -> Iterator[ServeProcess]:
    flags = (*SERVE_FLAGS, "--split", "expert", "--replicas", "0")
    with serving(served_model.with_name("operations log"), str(served_model), *flags) as server:
        yield server


async def states(server: ServeProcess) -> AsyncGenerator[State, None]:
    """The service, second by second."""
    state: State = {}
    async with aclosing(messages(server.http)) as stream:
        async for told in stream:
            state |= told
            yield state


async def state_when(server: ServeProcess, condition: Callable[[State], bool]) -> State:
    """The first one that is so."""
    async for state in states(server):
        if condition(state):
            return state
    raise AssertionError("the stream ended")


def counts(packed: dict[str, Any]) -> NDArray[np.int64]:
    kind = np.dtype(packed["type"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(packed["data"]), kind).reshape(packed["shape"]).astype(np.int64)


async def test_workers_show_what_they_do_and_where_they_are(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        await client.tokens(ask(ANSWER))
        placed = (await client.placement()).workers
    positions = PROMPT + ANSWER - 1  # the last token drawn is never run
    state = await state_when(server, lambda state: bool(counts(state["ever"]["counts"]).any()))
    assert (counts(state["ever"]["counts"]).sum(1) == positions * SHAPE.active_experts).all()
    assert sum(state["ever"]["shares"]) == pytest.approx(1.0, abs=0.001)
    for shown, worker in zip(state["workers"], placed, strict=True):
        assert (shown["pid"], shown["weight_bytes"], shown["kv_bytes"]) == (
            worker.pid,
            worker.weight_bytes,
            worker.kv_bytes,
        )
        assert (shown["state"], shown["tokens"], shown["threads_off"]) == ("ready", positions, 0)
        assert (shown["off_node_bytes"], shown["problem"]) == (0, worker.locality.problem)
        assert shown["fill"] > 0
        assert shown["read_rate"] > 0
        assert shown["step_seconds"] > 0
        assert 0 <= shown["wait_share"] <= 1
        assert shown["seen_ago"] is not None
    node = state["hosts"][0]["nodes"][0]
    assert node["weight_bytes"] >= sum(worker["weight_bytes"] for worker in state["workers"])
    assert (state["flow"]["generated_tokens"], state["flow"]["ended"]) == (ANSWER, {"length": 1})


async def test_a_worker_that_stands_still_gives_no_sign_of_life(server: ServeProcess) -> None:
    pid = (await state_when(server, lambda state: True))["workers"][1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        state = await state_when(server, lambda state: state["workers"][1]["seen_ago"] > 2)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert state["workers"][0]["seen_ago"] < state["workers"][1]["seen_ago"]
    await state_when(server, lambda state: bool(state["workers"][1]["seen_ago"] < 1))


async def test_a_killed_worker_is_seen_to_die_and_to_come_back(server: ServeProcess) -> None:
    state = await state_when(server, lambda state: True)
    pids = [worker["pid"] for worker in state["workers"]]
    last = state["events"][-1]["id"]
    seen: list[str] = []
    async with aclosing(states(server)) as watching:
        async for state in watching:
            if not seen:
                os.kill(pids[1], signal.SIGKILL)
            seen.append(state["service"]["state"])
            kinds = [event["kind"] for event in state["events"] if event["id"] > last]
            if kinds[-1:] == ["workers_restarted"] and seen[-1] == "serving":
                break
    assert kinds == ["worker_lost", "workers_restarting", "workers_restarted"]
    assert "restarting" in seen
    assert [worker["state"] for worker in state["workers"]] == ["ready", "ready"]
    assert not set(pids) & {worker["pid"] for worker in state["workers"]}
    assert state["service"]["restarts"] == 1


async def test_experts_that_move_change_the_map(server: ServeProcess) -> None:
    before = await state_when(server, lambda state: True)
    assert set(counts(before["experts"]["holders"]).flat) == {1, 2}  # a bit for each worker
    reply = await order(server.http, "drain-worker", {"worker": 1})
    moves = int((counts(before["experts"]["holders"]) == 2).sum())
    assert (reply.status, reply.json) == (202, {"moves": moves})
    after = await state_when(server, lambda state: state["events"][-1]["kind"] == "worker_drained")
    assert set(counts(after["experts"]["holders"]).flat) == {1}
    moved = {expert for some in after["experts"]["moved"] for expert in some["experts"]}
    assert moved == set(np.flatnonzero(counts(before["experts"]["holders"]) == 2).tolist())
    async with connected(server.address) as client:
        first, second = (await client.placement()).workers
    assert [list(some.experts) for some in first.experts] == [list(range(SHAPE.experts))]
    assert [list(some.experts) for some in second.experts] == [[]]
