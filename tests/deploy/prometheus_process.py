"""A real Prometheus that runs what deploy/prometheus/ ships, faster, and scrapes what a test names."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.programs import find_program

SHIPPED = Path(__file__).parents[2] / "deploy/prometheus"
PATIENCE_SECONDS = 60.0  # for anything to appear on a loaded machine
_PACE = re.compile(r"^( *(?:scrape_interval|evaluation_interval|interval): ).*$", re.MULTILINE)
_FOR = re.compile(r"^( +for: ).*$", re.MULTILINE)
_TARGETS = re.compile(r"(?<=targets: )\[.*\]")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs."""

    address: str

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        with urllib.request.urlopen(f"http://{self.address}{path}?{urllib.parse.urlencode(parameters)}") as reply:
            told = json.load(reply)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant vector."""
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=expression)["result"]
        return found

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """The alerts that fire, by name."""
        alerts: dict[str, list[dict[str, Any]]] = {}
        for alert in self.get("/api/v1/alerts")["alerts"]:
            if alert["state"] == "firing":
                alerts.setdefault(alert["labels"]["alertname"], []).append(alert)
        return alerts

    def rules(self) -> list[dict[str, Any]]:
        """All rules as it has loaded them."""
        return [rule for group in self.get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def until(self, condition: Callable[[], bool], describe: Callable[[], object]) -> None:
        """Waits for what is scraped and evaluated once a second."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < end, describe()
            time.sleep(0.1)


@contextmanager
def prometheus(folder: Path, *targets: str, hurried: bool = True) -> Iterator[Prometheus]:
    """One for the length of a block, with its files in `folder`.

    Hurried, it scrapes and evaluates once a second, and alerts fire a second after what they tell of.
    """
    write_hurried(folder, targets) if hurried else write_shipped(folder, targets)
    command = [
        find_program("PROMETHEUS", "prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(_address(process, folder / "log"))
        finally:
            process.terminate()
    assert process.returncode == 0, (folder / "log").read_text()


def write_shipped(folder: Path, targets: tuple[str, ...]) -> None:
    """The files as they are, but for who is scraped."""
    for path in SHIPPED.glob("*.yml"):
        (folder / path.name).write_text(_TARGETS.sub(json.dumps(targets), path.read_text()))


def write_hurried(folder: Path, targets: tuple[str, ...]) -> None:
    """The same, with every interval and every `for` of a second."""
    write_shipped(folder, targets)
    for path in folder.glob("*.yml"):
        path.write_text(_FOR.sub(r"\g<1>1s", _PACE.sub(r"\g<1>1s", path.read_text())))


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, once it answers."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        for one in psutil.Process(process.pid).net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                address = f"127.0.0.1:{one.laddr.port}"
                with suppress(urllib.error.URLError), urllib.request.urlopen(f"http://{address}/-/ready"):
                    return address
        time.sleep(0.02)
    raise AssertionError(log.read_text())
