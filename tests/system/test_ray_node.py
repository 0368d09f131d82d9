"""A Ray node that misses its own time limit is started again, and what it said is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from numoe.coordinator.cluster import ray_node
from numoe.coordinator.cluster.ray_node import RayNode
from numoe.coordinator.workers.watching.survivors import (
    KEPT_SESSIONS,
    LOCK,
    hold_session,
    kill_session,
    remove_old_sessions,
)
from numoe.protos.errors import SetupError

JOIN = """
import ray
ray.init(address="{address}")
print("joined", ray.get(ray.remote(lambda: 1).remote()))
"""
OPEN = """
import os
from pathlib import Path
from numoe.coordinator.cluster.ray_node import RayNode
import ray
node = RayNode({"numa0": 1.0})
node.start()
print(ray.get_runtime_context().gcs_address, node.folder, os.environ["RAY_AUTH_TOKEN"], flush=True)
input()
ray.shutdown()
"""
START_IN = "ray_node.SESSIONS = Path('{}/numoe/ray'); ray_node.RayNode({{}}).start(look=lambda: 1 / 0)"
SLOW_AGENTS = """
import os, sys, time
if any("agent" in argument for argument in sys.orig_argv):
    time.sleep(max(0.0, float(os.environ["SLOW_UNTIL"]) - time.time()))
"""
START = """
from numoe.coordinator.cluster.ray_node import RayNode
import ray
RayNode({"numa0": 1.0}).start(attempts=ATTEMPTS)
print("started with", ray.cluster_resources()["numa0"])
"""


def start_with_slow_agents(folder: Path, attempts: int) -> subprocess.CompletedProcess[str]:
    """Start Ray in a process of its own, with agents that take longer than the first attempt."""
    (folder / "sitecustomize.py").write_text(SLOW_AGENTS)
    return subprocess.run(
        [sys.executable, "-c", START.replace("ATTEMPTS", str(attempts))],
        env={**os.environ, "PYTHONPATH": str(folder), "SLOW_UNTIL": str(time.time() + 28.0)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_node_that_was_too_slow_is_started_again(tmp_path: Path) -> None:
    done = start_with_slow_agents(tmp_path, attempts=3)
    assert done.stdout.splitlines()[-1] == "started with 1.0", done.stderr
    assert "ray_did_not_start" in done.stdout + done.stderr


def test_a_node_that_never_starts_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    done = start_with_slow_agents(tmp_path, attempts=1)
    assert done.returncode != 0
    error = done.stderr.splitlines()[-1]
    assert "ServiceError: Ray did not start" in error
    assert "raylet.out: " in error
    assert "Timed out waiting" in error


@pytest.mark.parametrize("folder", ["o'neil", 'a "b"'])
def test_a_path_that_ray_cannot_start_from_is_refused_at_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", f"/home/{folder}/.venv/bin/python")
    attempts: list[str] = []
    with pytest.raises(SetupError, match=r"has .* in its path"):
        RayNode({"numa0": 1.0}).start(look=lambda: attempts.append("one"))
    assert attempts == []


def test_nobody_joins_a_node_whatever_the_environment_says_of_authentication(tmp_path: Path) -> None:
    """Joined, a stranger would run what he likes as this user."""
    home = tmp_path / "home"
    home.mkdir()
    ours = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "guessed", "HOME": str(home)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", OPEN], env=ours, **pipes) as node:  # type: ignore[call-overload]
        assert node.stdout is not None
        address, session, token = node.stdout.readline().split()
        try:
            assert token != "guessed"
            assert (Path(session).parents[1].stat().st_mode & 0o777) == 0o700
            strangers = {name: value for name, value in ours.items() if not name.startswith("RAY_")}
            for mode, token in (("disabled", ""), ("token", "guessed")):
                tried = subprocess.run(
                    [sys.executable, "-c", JOIN.format(address=address)],
                    env={**strangers, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": token},
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                assert tried.returncode != 0
                assert "joined" not in tried.stdout
                assert "nauthenticated" in tried.stderr, tried.stderr
        finally:
            node.communicate("\n")
    assert list(home.iterdir()) == []


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "numoe").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(ray_node, "SESSIONS", tmp_path / "numoe" / "ray")
    with pytest.raises(SetupError, match="not a folder of this user's own"):
        RayNode({"numa0": 1.0}).start()


def test_a_full_disk_is_said_at_once_with_its_folder(tmp_path: Path) -> None:
    """Ray would try for two minutes, and blame its own processes."""
    mounted = f"mount -t tmpfs -o size=1m none '{tmp_path}' && exec \"$@\""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system")
    program = f"from pathlib import Path; from numoe.coordinator.cluster import ray_node; {START_IN.format(tmp_path)}"
    done = subprocess.run([*command, sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert "SetupError: " in done.stderr, done.stderr
    said = done.stderr.splitlines()[-1]
    assert "disk space" in said
    assert "No space left on device" in said
    assert "set TMPDIR to another folder" in said


def test_sessions_that_nobody_holds_are_removed_but_the_newest(tmp_path: Path) -> None:
    def session(number: int, pid: int, marked: bool) -> Path:
        folder = tmp_path / f"session_2026-11-28_09-{number:02}-00_000000_{pid}"
        (folder / "logs").mkdir(parents=True)
        if marked:
            (folder / LOCK).touch()
        return folder

    nobody = 4194304  # above every pid
    living = subprocess.Popen(["sleep", "600"])
    try:
        unmarked_living, held = session(0, living.pid, marked=False), session(1, nobody, marked=True)
        descriptor = hold_session(held)
        dead = [session(2, nobody, marked=False), session(3, os.getpid(), marked=True)]
        newest = [session(10 + number, nobody, marked=True) for number in range(KEPT_SESSIONS)]
        (tmp_path / "session_latest").symlink_to(newest[-1])
        remove_old_sessions(tmp_path)
        left = {unmarked_living, held, *newest, tmp_path / "session_latest"}
        assert set(tmp_path.iterdir()) == left
        os.close(descriptor)
        remove_old_sessions(tmp_path)
        assert set(tmp_path.iterdir()) == left - {held}
        assert not any(folder.exists() for folder in dead)
    finally:
        living.kill()
        living.wait()


def test_only_what_writes_into_a_session_and_is_ours_is_killed_with_it(tmp_path: Path) -> None:
    logs = tmp_path / "session_2026_1_999999999" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").touch()
    with (logs / "raylet.out").open() as reading, (logs / "raylet.out").open("a") as writing:
        reader = subprocess.Popen(["sleep", "600"], stdin=reading)
        writer = subprocess.Popen(["sleep", "600"], stdout=writing)
        stranger = subprocess.Popen(["sleep", "600"], stdout=writing, start_new_session=True)  # as cron starts one
    try:
        assert kill_session(999999999, os.getsid(0))
        assert writer.wait() == -signal.SIGKILL
        assert (reader.poll(), stranger.poll()) == (None, None)
        assert not kill_session(999999999, os.getsid(0))
    finally:
        for process in (reader, writer, stranger):
            process.kill()
            process.wait()
