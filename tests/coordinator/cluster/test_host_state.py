"""What a host's node leaves for other processes: itself, as long as it lives, and a secret that is its user's alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.coordinator.cluster.host_state import (
    HostPorts,
    HostState,
    default_token_path,
    make_token,
    read_state,
    read_token,
    remove_state,
    start_of,
    state_path,
    write_state,
)
from numoe.protos.errors import SetupError

STATE = HostState(
    os.getpid(),
    start_of(os.getpid()),
    "10.0.0.1:50160",
    "10.0.0.2",
    50160,
    "/tmp/session",
    "/token",
    None,
    {"raylet": 7},
)


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_node_is_found_as_long_as_it_lives() -> None:
    assert read_state() is None
    write_state(STATE)
    assert read_state() == STATE
    assert state_path().stat().st_mode & 0o777 == 0o600
    write_state(replace(STATE, pid=2**22 + 1))  # above the largest there can be
    assert read_state() is None
    write_state(replace(STATE, started=STATE.started - 1))  # another process has its pid now
    assert read_state() is None
    write_state(STATE)
    remove_state()
    remove_state()
    assert read_state() is None


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}', "\0"])
def test_a_file_that_is_no_node_s_is_none(text: str) -> None:
    write_state(STATE)
    state_path().write_text(text)
    assert read_state() is None


def test_a_token_is_made_once_for_this_user_alone() -> None:
    path = default_token_path()
    make_token(path)
    token = read_token(path)
    make_token(path)
    assert read_token(path) == token
    assert len(token) == 64
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_token_that_others_know_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(SetupError, match="copy it from the first host"):
        read_token(path)
    make_token(path)
    path.chmod(0o640)
    with pytest.raises(SetupError, match=r"mode 640\): chmod 600"):
        read_token(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(SetupError, match="expected 64"):
        read_token(path)


def test_no_two_of_a_host_s_listeners_have_one_port() -> None:
    ports = HostPorts(50160)
    single = [ports.gcs, ports.raylet, ports.objects, ports.environments, ports.stream]
    assert len({*single, *range(ports.workers[0], ports.workers[1] + 1)}) == len(single) + 80
    assert max(ports.workers) < ports.first + 90
