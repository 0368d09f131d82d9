"""The units, as systemd itself reads them: without a fault, and as closed as a server that compiles can be."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from numoe.coordinator.cluster.host_state import HostPorts
from tests.system.serve_process import NUMOE

UNITS = Path(__file__).parents[3] / "deploy" / "systemd"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))
MOST_EXPOSED = 25  # tenths of the points that systemd gives; 100 is a service without any of it

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here to read them")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All units, for programs that are there."""
    for path in UNITS.glob("*.service"):
        text = path.read_text().replace("/opt/numoe/bin/numoe", NUMOE)
        (tmp_path / path.name).write_text(re.sub(r"^(User|Group)=.*$", r"\1=daemon", text, flags=re.MULTILINE))
    return tmp_path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_no_fault(name: str, folder: Path) -> None:
    found = analyze("verify", "--man=no", str(folder / name))
    assert [line for line in found.stderr.splitlines() if name in line] == []


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_a_service_may_do_little(name: str, folder: Path) -> None:
    found = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", str(folder / name))
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr


@pytest.mark.parametrize("name", NAMES)
def test_what_units_start_takes_the_flags_that_they_give(name: str) -> None:
    [line] = re.findall(r"^ExecStart=/opt/numoe/bin/numoe (.*)$", (UNITS / name).read_text(), re.MULTILINE)
    words = [word for word in shlex.split(line) if not word.startswith("$")]
    command = words[: 2 if words[0] == "host" else 1]
    told = subprocess.run([NUMOE, *command, "--help"], capture_output=True, text=True, check=True).stdout
    for flag in (word for word in words if word.startswith("--")):
        assert f"{flag} " in told.replace("│", " "), flag


def test_the_firewall_s_ports_are_those_that_hosts_use() -> None:
    ports = HostPorts()
    text = (UNITS.parent / "README.md").read_text()
    assert f"{ports.first}-{ports.workers[1]}" in text
