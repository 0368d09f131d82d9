"""What tests of two hosts share within a file: the nodes of both, a service of the small model on them, its client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.system.clients import Client, connected
from tests.system.hosts.several_hosts import FLAGS, THERE, SeveralHosts, serving_on, several_hosts
from tests.system.serve_process import ServeProcess


@pytest.fixture(scope="module")
def hosts() -> Iterator[SeveralHosts]:
    with several_hosts(THERE) as both:
        yield both


@pytest.fixture(scope="module")
def server(hosts: SeveralHosts, served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    with serving_on(hosts, tmp_path_factory.mktemp("log") / "log", str(served_model), *FLAGS) as running:
        yield running


@pytest.fixture
async def client(server: ServeProcess) -> AsyncIterator[Client]:
    async with connected(server.address) as found:
        yield found
