"""What systemd is told of a service: by the words of sd_notify(3), through a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from numoe.coordinator.process.life import Coordinator
from numoe.coordinator.service_manager import ServiceManager
from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, settings_of
from tests.coordinator.process.test_life import SlowLoad, ignore


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(PATIENCE_SECONDS)
        yield listening


async def test_a_service_tells_its_whole_life(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    settings = settings_of()
    load = SlowLoad(settings)
    coordinator = Coordinator(settings, load, ignore, lambda ready: None)
    running = asyncio.create_task(coordinator.run())

    async def told(wanted: str) -> str:
        while wanted not in (message := (await asyncio.to_thread(manager.recv, 4096)).decode()):
            pass
        return message

    assert await told("loading") == "STATUS=loading, 50% of 0.0 GiB"
    load.finish()
    assert (await told("READY=1")).splitlines()[1].endswith("is served by 2 workers")
    for _ in range(3):
        assert await told("WATCHDOG") == "WATCHDOG=1"
    coordinator.on_signal()
    assert await told("STOPPING") == "STOPPING=1\nSTATUS=draining: 0 requests run, 0 wait"
    await asyncio.wait_for(running, PATIENCE_SECONDS)


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    ServiceManager({}).ready("served")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready("served")


def test_a_watchdog_of_another_process_is_not_ours(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "2000000"}
    assert ServiceManager(environment).watchdog_seconds == 2.0
    assert ServiceManager({**environment, "WATCHDOG_PID": str(os.getpid() + 1)}).watchdog_seconds == 0.0
    assert ServiceManager({**environment, "WATCHDOG_USEC": "soon"}).watchdog_seconds == 0.0


def test_a_name_of_the_abstract_kind_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0numoe-test-{os.getpid()}")
        listening.settimeout(PATIENCE_SECONDS)
        ServiceManager({"NOTIFY_SOCKET": f"@numoe-test-{os.getpid()}"}).lives()
        assert listening.recv(100) == b"WATCHDOG=1"
