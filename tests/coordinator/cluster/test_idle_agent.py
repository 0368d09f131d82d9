"""What stands in for the agent of Ray's dashboard: a raylet waits for its files, and it waits for the raylet's end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import ray.dashboard.agent
from ray._raylet import get_port_filename  # type: ignore[attr-defined]  # compiled

from numoe.coordinator.cluster import idle_agent

NODE = "ab" * 28


def test_it_says_that_it_has_no_ports_and_ends_with_the_raylet(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as raylet:
        command = [sys.executable, "-I", "-S", idle_agent.__file__, "agent.py", f"--node-id={NODE}", "--head"]
        environment = {**os.environ, "RAY_RAYLET_PID": str(raylet.pid)}
        with subprocess.Popen([*command, f"--session-dir={tmp_path}"], env=environment) as agent:
            end = time.monotonic() + 30.0
            while len(list(tmp_path.glob(f"*_{NODE}"))) < len(idle_agent.PORTS) and time.monotonic() < end:
                time.sleep(0.01)
            assert agent.poll() is None
            raylet.kill()
            raylet.wait()
            assert agent.wait(30.0) == 0
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {get_port_filename(NODE, name): "-1" for name in idle_agent.PORTS}


def test_rays_own_agent_writes_the_same_files() -> None:
    names = {getattr(ray.dashboard.agent, name) for name in dir(ray.dashboard.agent) if name.endswith("_PORT_NAME")}
    assert names == set(idle_agent.PORTS)
