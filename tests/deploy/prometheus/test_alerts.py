"""Prometheus scrapes real services, and what happens to them makes the shipped alerts fire."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.coordinator.api.grpc.grpc_serving import running_server
from tests.deploy.prometheus_process import prometheus
from tests.deploy.watched import Watched
from tests.programs import find_program

SELECTOR = re.compile(r"(?<![:\w])numoe_\w+(?:\{[^}]*\})?")


def test_the_service_is_scraped_without_a_fault(watched: Watched) -> None:
    def target() -> Any:
        [only] = watched.prometheus.get("/api/v1/targets")["activeTargets"]
        return only

    labels = target()["labels"]
    assert (labels["job"], labels["instance"]) == ("numoe", watched.server.http)
    # Hurried, it gives each look a second, which a busy machine may need now and then.
    watched.prometheus.until(lambda: (target()["health"], target()["lastError"]) == ("up", ""), target)


def test_promtool_finds_no_fault_with_what_the_service_tells(watched: Watched) -> None:
    told = b""
    for _ in range(20):  # what is told may be a second old
        watched.answer()
        with urllib.request.urlopen(f"http://{watched.server.http}/metrics") as reply:
            told = reply.read()
        if b"numoe_worker_fill_ratio{" in told:
            break
        time.sleep(0.5)
    assert b"numoe_worker_fill_ratio{" in told  # what workers that compute tell too
    promtool = find_program("PROMETHEUS", "promtool")
    checked = subprocess.run([promtool, "check", "metrics"], input=told, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_killed_worker_makes_its_alert_fire_though_it_is_back_at_once(watched: Watched) -> None:
    running = watched.prometheus
    running.until(lambda: "NumoeWorkerDied" in running.firing(), lambda: running.get("/api/v1/alerts"))
    [alert] = running.firing()["NumoeWorkerDied"]
    assert (alert["labels"]["instance"], alert["labels"]["severity"]) == (watched.server.http, "warning")
    assert (alert["labels"]["worker"], alert["labels"]["node"]) == ("1", "0")
    assert alert["annotations"]["summary"] == f"Worker 1 on node 0 of {watched.server.http} died"
    assert alert["annotations"]["description"].startswith("In the last 10 minutes worker 1 on node 0 died")


def test_every_rule_is_evaluated_without_an_error_and_looks_at_what_is_there(watched: Watched) -> None:
    running = watched.prometheus
    running.until(
        lambda: all(rule["health"] == "ok" for rule in running.rules()),
        lambda: [rule for rule in running.rules() if rule["health"] != "ok"],
    )
    watched.answer()  # so that there is a fill
    selectors = {found for rule in running.rules() for found in SELECTOR.findall(rule["query"])}
    assert len(selectors) > 15
    running.until(
        lambda: all(running.query(f"count({selector})") for selector in selectors),
        lambda: [selector for selector in selectors if not running.query(f"count({selector})")],
    )


async def test_pages_off_their_node_make_their_alert_fire(tmp_path: Path) -> None:
    """The workers are made up and say that 100 bytes lie elsewhere; all from there on is as in a service."""

    def watch(http: str) -> list[dict[str, Any]]:
        with prometheus(tmp_path, http) as running:
            running.until(lambda: "NumoePagesOffNode" in running.firing(), lambda: running.get("/api/v1/alerts"))
            return running.firing()["NumoePagesOffNode"]

    async with running_server() as running:
        [alert] = await asyncio.to_thread(watch, running.ready.http)
    assert (alert["labels"]["worker"], alert["labels"]["node"], float(alert["value"])) == ("0", "0", 100)
    assert "worker 0" in alert["annotations"]["summary"].lower()
    assert alert["annotations"]["description"].startswith("100B of worker 0 lie on other NUMA nodes than 0,")
