"""What deploy/prometheus/ ships is what Prometheus takes, its alerts fire when they should, and say what to do."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from numoe.coordinator.commands.main import app
from tests.deploy.prometheus_process import SHIPPED, prometheus
from tests.programs import find_program

CASES = sorted(Path(__file__).parent.glob("*.yml"))


def promtool(*arguments: object) -> None:
    command = [find_program("PROMETHEUS", "promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """As Prometheus has loaded the shipped files, unchanged."""
    with prometheus(tmp_path_factory.mktemp("shipped"), "127.0.0.1:50152", hurried=False) as running:
        yield running.rules()


def test_promtool_finds_no_fault() -> None:
    promtool("check", "config", "--lint=all", "--lint-fatal", SHIPPED / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", SHIPPED / "rules.yml")


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_alerts_fire_when_they_should_and_are_silent_else(case: Path) -> None:
    promtool("test", "rules", case)


def test_every_alert_has_fired_in_a_case(rules: list[dict[str, Any]]) -> None:
    cases = "".join(case.read_text() for case in CASES)
    fired = set(re.findall(r'alertname="(\w+)"', cases))
    assert fired == {rule["name"] for rule in rules if rule["type"] == "alerting"}


def test_every_alert_says_whom_it_is_about_what_it_means_and_which_command_tells_more(
    rules: list[dict[str, Any]],
) -> None:
    commands = {name for name in app if not name.startswith("-")}
    for rule in rules:
        if rule["type"] != "alerting":
            continue
        name, query = rule["name"], rule["query"]
        told = rule["annotations"]
        assert set(told) == {"summary", "description"}, name
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        named = set(re.findall(r"`numoe (\w+)`", told["description"]))
        assert named, name
        assert named <= commands, name
        assert "$labels.instance" in told["summary"] or "absent" in query, name
        if "worker" in query:
            assert {"$labels.worker", "$labels.node"} <= set(re.findall(r"\$labels\.\w+", told["summary"])), name
            assert "node {{ $labels.node }}{{ with $labels.host }} of {{ . }}{{ end }}" in told["summary"], name
        assert len(told["summary"]) < 150, name
        assert 150 < len(told["description"]) < 600, name


def test_the_list_of_alerts_is_that_of_the_rules(rules: list[dict[str, Any]]) -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \|", (SHIPPED.parent / "README.md").read_text(), re.MULTILINE)
    shipped = [(rule["name"], rule["labels"]["severity"]) for rule in rules if rule["type"] == "alerting"]
    assert sorted(listed) == sorted(shipped)
