"""What operators see of a service on two hosts: both machines, every worker in its room, what is silent or lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from numoe.coordinator.machine.model_file import read_spec
from numoe.model.planning.expert_stats import load_stats
from numoe.v1.placement_pb2 import WorkerState
from tests.system.clients import Client, ask, connected
from tests.system.hosts.several_hosts import FLAGS, HERE, THERE, SeveralHosts, serving_on, why_not
from tests.system.page.browser import open_page, serious, until
from tests.system.page.service import answer, status
from tests.system.page.shown import size, text
from tests.system.serve_process import NUMOE, PATIENCE_SECONDS, ServeProcess, wait_until

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(600)]

PROMPT, TOKENS = (1, 2, 3, 4, 5), 40
SHORT_SECONDS = 2.0  # of silence, for which no host is given up
READY, STUCK = "WORKER_STATE_READY", "WORKER_STATE_STUCK"


def test_both_machines_and_all_workers_are_told_of_as_one_is(server: ServeProcess) -> None:
    answer(server.address, 200)
    found: dict[str, Any] = {}

    def all_have_worked() -> bool:
        found.update(status(server.http))
        return all(worker["fill"] for worker in found["workers"])

    wait_until(all_have_worked, lambda: found)
    assert [host["address"] for host in found["hosts"]] == [HERE, THERE]
    assert all(host["name"] and host["processor"] and found["now"] - host["told_at"] < 60 for host in found["hosts"])
    held = [sum(node["weight_bytes"] for node in host["nodes"]) for host in found["hosts"]]
    places = [(worker["host"], worker["first_layer"], worker["layers"]) for worker in found["workers"]]
    assert places == [(0, 0, 1), (0, 0, 1), (1, 1, 1), (1, 1, 1)]
    for worker in found["workers"]:
        room = {node["node"]: node for node in found["hosts"][worker["host"]]["nodes"]}[worker["node"]]
        assert worker["peak"] == pytest.approx(room["peak"] / 2, rel=0.01)
        assert worker["process_threads"] > 0
        assert 0 <= worker["seen_ago"] < 60
        assert 0 < worker["weight_bytes"] < held[worker["host"]]
    assert {finding["host"] for finding in found["findings"]} == {0, 1}


def test_metrics_and_the_terminal_tell_the_hosts_apart(server: ServeProcess) -> None:
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    for start in ("numoe_worker_up{", "numoe_node_memory_bytes{", "numoe_host_info{"):
        told = [line for line in lines if line.startswith(start)]
        assert {host for host in (HERE, THERE) for line in told if f'host="{host}"' in line} == {HERE, THERE}
    command = ["env", "COLUMNS=200", NUMOE, "status", "--address", server.address]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert [(row[0], row[3]) for row in rows if row[0] in (HERE, THERE)][:2] == [(HERE, "0-0"), (THERE, "1-1")]


async def test_a_host_that_is_stopped_is_shown_as_stuck_and_keeps_nobody_waiting(
    hosts: SeveralHosts, server: ServeProcess, client: Client
) -> None:
    [leader] = hosts.processes(THERE, "ray::HostActor")
    slowest, seen = 0.0, list[list[str]]()
    leader.suspend()
    try:
        end = time.monotonic() + SHORT_SECONDS
        while time.monotonic() < end:
            began = time.monotonic()
            seen.append((await shown_states(client))[2:])
            await asyncio.to_thread(status, server.http)
            slowest = max(slowest, time.monotonic() - began)
    finally:
        leader.resume()
    assert [STUCK, STUCK] in seen
    assert slowest < 0.75 * SHORT_SECONDS
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await shown_states(client))[2:] != [READY, READY]:
            await asyncio.sleep(0.05)


async def shown_states(client: Client) -> list[str]:
    return [WorkerState.Name(worker.state) for worker in (await client.placement()).workers]


def test_the_page_has_a_room_for_every_node_of_every_host_and_says_what_is_lost(
    hosts: SeveralHosts, server: ServeProcess
) -> None:
    with open_page(server.http) as (page, faults):
        state = status(server.http)
        for number, (address, layer) in enumerate(((HERE, 0), (THERE, 1))):
            host = f"[data-host='{number}']"
            title = text(page, f"{host} h3")
            assert address in title
            assert f"layer {layer}" in title
            cards = page.locator(f"{host} .worker").evaluate_all("cards => cards.map((card) => card.dataset.worker)")
            assert cards == [str(2 * number), str(2 * number + 1)]
            shown = text(page, f"{host} .room h5").split(" · ")[1]
            assert size(shown) == pytest.approx(state["hosts"][number]["nodes"][0]["total_bytes"], rel=0.005)
        assert "on 2 hosts" in text(page, "#machine-summary")
        told_of = set(page.locator("#doctor-list .where").all_inner_texts())
        assert told_of <= {"all hosts", HERE, THERE}
        assert page.locator("#doctor-list .where").count() == page.locator("#doctor-list li").count() > 0
        assert where_an_expert_lives(page, layer=1) == f"rows on workers 2 and 3, node 0 of {THERE}"
        page.wait_for_timeout(100)
        assert serious(page) == []
        [leader] = hosts.processes(THERE, "ray::HostActor")
        leader.kill()
        until(page, "document.querySelector(\"[data-host='1'] h3 .state.lost\") !== null")
        assert page.locator("[data-host='1'] .worker .state.lost").count() == 2
        assert page.locator("[data-host='0'] h3 .state.lost").count() == 0
        until(page, "document.querySelectorAll('.worker .state.ready').length === 4")
        assert page.locator("h3 .state:visible").count() == 0
        assert page.evaluate("breaches") == []
        assert faults.found == []


def where_an_expert_lives(page: Page, layer: int) -> str:
    page.locator("#expert-layer").fill(str(layer))
    return text(page, "[data-expert='lives on']")


async def test_experts_of_all_layers_are_counted_in_one_file(
    hosts: SeveralHosts, server: ServeProcess, served_model: Path, tmp_path: Path
) -> None:
    """The last test of those of a file that share the service."""
    server.process.send_signal(signal.SIGTERM)
    assert server.wait()[0] == 0
    spec, stats = read_spec(served_model), tmp_path / "stats.json"
    with serving_on(hosts, tmp_path / "log", str(served_model), *FLAGS, "--expert-stats", str(stats)) as running:
        async with connected(running.address) as client:
            await client.tokens(ask(TOKENS, PROMPT))
            os.kill(status(running.http)["workers"][3]["pid"], signal.SIGKILL)
            await asyncio.to_thread(wait_until, partial(is_back, running.http))
            await client.tokens(ask(1, PROMPT))  # what a host has counted outlives its workers
    computed = 2 * len(PROMPT) + TOKENS - 1
    assert {sum(row) for row in load_stats(stats, spec).counts} == {computed * spec.active_experts}


def is_back(http: str) -> bool:
    service = status(http)["service"]
    return bool(service["restarts"] == 1 and service["state"] == "serving")
