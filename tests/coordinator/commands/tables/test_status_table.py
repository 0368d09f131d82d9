"""What `numoe status` and `numoe top` put on the screen says how the service is, and nothing that steers it."""

from __future__ import annotations

import pytest

from numoe.coordinator.commands.tables.figures import human_time
from numoe.coordinator.commands.tables.status import SHOWN_REQUESTS, describe_status
from numoe.v1.operations_pb2 import (
    SERVICE_STATE_SERVING,
    Finding,
    FlowStatus,
    HostStatus,
    NodeStatus,
    Progress,
    RequestStatus,
    ServiceStatus,
    Status,
    WorkerStatus,
)
from numoe.v1.placement_pb2 import WORKER_STATE_LOST, WORKER_STATE_READY
from tests.coordinator.commands.tables.screen import shown

GIB = 1 << 30
BUSY = WorkerStatus(
    worker=0, node=1, pid=7, state=WORKER_STATE_READY, cpus="0-19", threads=20, process_threads=44, threads_off=3,
    kv_bytes=4 * GIB, kv_used_bytes=GIB, off_node_bytes=2 * GIB, fill=0.83, read_rate=87.15e9, step_seconds=0.1312,
    wait_share=0.041, seen_ago=0.07, problem="found 2 GiB elsewhere",
    ready_at=1000.0 - 12.04,
)  # fmt: skip
STATUS = Status(
    now=1000.0,
    service=ServiceStatus(
        state=SERVICE_STATE_SERVING, model="Qwen3\x1b[2J", split="expert", binding="cpus+memory", restarts=2,
        started_at=1000.0 - 3723, rebalance=Progress(phase="even out the workers", done=3, total=12),
    ),
    hosts=[HostStatus(nodes=[NodeStatus(node=1, total_bytes=192 * GIB, weight_bytes=117 * GIB, free_bytes=9 * GIB)])],
    workers=[BUSY, WorkerStatus(worker=1, state=WORKER_STATE_LOST)],
    flow=FlowStatus(
        running=3, queued=14, rejected=159, prefill_rate=265.3, decode_rate=35.8, first_token_seconds=1.72,
        kv_blocks_used=97, kv_blocks_reserved=480, kv_blocks=512, kv_blocks_cached=33,
    ),
    findings=[
        Finding(level="ok", subject="swap", found="none"),
        Finding(level="warning", subject="huge pages", found="off"),
    ],
)  # fmt: skip


def test_everything_that_counts_is_on_the_screen() -> None:
    text = shown(describe_status(STATUS), width=200)
    for part in (
        "serving  Qwen3[2J, expert split over 2 workers, cpus+memory, up 1:02:03, 2 restarts, the last 12.0 s ago",
        "3 of 12 experts moved, to even out the workers",
        *("83 %", "87.2", "131.2 ms", "4 %", "25 %", "2.00 GiB", "3 of 44", "70.0 ms ago", "lost"),
        *("192 GiB", "117 GiB", "9.00 GiB"),
        "3 running, 14 queued, 159 rejected; prompts 265.3/s, answers 35.8/s; first token 1.7 s",
        "97 of 512 KV blocks, 480 reserved, 33 cached",
        "Worker 0: found 2 GiB elsewhere.",
        "warning: huge pages: off",
    ):
        assert part in text
    assert "swap" not in text
    assert "\x1b" not in text


def test_several_hosts_are_told_apart() -> None:
    node = NodeStatus(node=1, total_bytes=192 * GIB)
    hosts = [
        HostStatus(address="10.0.0.1", name="one\x1b[2J", processor="a chip", told_at=998.0, nodes=[node]),
        HostStatus(address="10.0.0.2", name="two", processor="a chip", told_at=960.0, nodes=[node]),
    ]
    workers = [
        WorkerStatus(worker=0, state=WORKER_STATE_READY, layers=40),
        WorkerStatus(worker=1, state=WORKER_STATE_LOST, host=1, first_layer=40, layers=54),
        WorkerStatus(worker=2, state=WORKER_STATE_LOST, host=1, first_layer=40, layers=54),
    ]
    findings = [Finding(host=1, level="warning", subject="huge pages", found="off")]
    lines = shown(
        describe_status(Status(now=1000.0, hosts=hosts, workers=workers, findings=findings)), 200
    ).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert ["10.0.0.1", "one[2J", "a chip", "0-39", "1 ready", "2.0 s ago"] in rows
    assert ["10.0.0.2", "two", "a chip", "40-93", "2 lost", "40.0 s ago"] in rows
    assert [row[:2] for row in rows if row[4:5] == ["lost"]] == [["1", "10.0.0.2"], ["2", "10.0.0.2"]]
    memory = [line.split()[-1] for line in lines if line.startswith("memory of ")]
    assert (memory, [row[:2] for row in rows if "192 GiB" in row]) == (["10.0.0.1", "10.0.0.2"], [["1", "192 GiB"]] * 2)
    assert "warning: 10.0.0.2: huge pages: off" in lines


@pytest.mark.parametrize(
    ("flow", "told"),
    [
        (FlowStatus(), "idle; 0 running, 0 queued"),
        (FlowStatus(running=1, step_age=14.04), "step running for 14.0 s; 1 running"),
        (FlowStatus(running=1, step_age=0.2), "1 running, 0 queued"),
        (FlowStatus(queued=1), "0 running, 1 queued"),
    ],
)
def test_nothing_to_do_is_told_from_a_step_that_takes_long(flow: FlowStatus, told: str) -> None:
    lines = shown(describe_status(Status(flow=flow)), width=200).splitlines()
    assert any(line.startswith(told) for line in lines)


def test_a_narrow_terminal_breaks_no_figure() -> None:
    text = shown(describe_status(STATUS), width=80)
    for part in (
        "0-19",
        "ready",
        "83 %",
        "87.2",
        "131.2 ms",
        "2.00 GiB",
        "3 of 44",
        "70.0 ms ago",
        "192 GiB",
        "page cache",
    ):
        assert part in text


def test_many_requests_do_not_fill_the_screen() -> None:
    request = RequestStatus(id="r\x07", client="ipv4:10.0.0.1:5", phase="prefill", prompt_tokens=900, prompt_done=512)
    text = shown(describe_status(Status(requests=[request] * 50)), width=200)
    assert text.count("512 of 900") == SHOWN_REQUESTS
    assert "30 more are not shown" in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0041, "4.1 ms"), (0.0, "0.0 ms"), (12.04, "12.0 s"), (75, "0:01:15"), (11109, "3:05:09")]
)
def test_times_are_in_the_unit_that_suits_them(seconds: float, told: str) -> None:
    assert human_time(seconds) == told
