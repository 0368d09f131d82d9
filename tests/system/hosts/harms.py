"""What may happen to a service on two hosts."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Mapping

from tests.system.clients import Client
from tests.system.hosts.several_hosts import HERE, THERE, SeveralHosts
from tests.system.losses.campaign import Harm, killing
from tests.system.serve_process import ServeProcess

DOWN_SECONDS = 5.0  # longer than the silence after which a host is given up
STOPPED_SECONDS = 8.0


def worker(hosts: SeveralHosts) -> Harm:
    """SIGKILL to a worker of either host."""
    return killing(signal.SIGKILL)


def _to(number: signal.Signals, name: str, host: str = THERE) -> Callable[[SeveralHosts], Harm]:
    def of(hosts: SeveralHosts) -> Harm:
        async def harm(server: ServeProcess, client: Client, choice: random.Random) -> None:
            [found] = hosts.processes(host, name)
            found.send_signal(number)
            if number == signal.SIGSTOP:
                asyncio.get_running_loop().call_later(STOPPED_SECONDS, _go_on, found)

        return harm

    return of


def _go_on(process: object) -> None:
    if process.is_running():  # type: ignore[attr-defined]
        process.send_signal(signal.SIGCONT)  # type: ignore[attr-defined]


def wire(hosts: SeveralHosts) -> Harm:
    """The wire between both, cut for a while."""

    async def harm(server: ServeProcess, client: Client, choice: random.Random) -> None:
        hosts.wire("down")
        asyncio.get_running_loop().call_later(DOWN_SECONDS, hosts.wire, "up")

    return harm


def gone(hosts: SeveralHosts) -> Harm:
    """The other host, for good."""

    async def harm(server: ServeProcess, client: Client, choice: random.Random) -> None:
        hosts.kill(THERE)

    return harm


HARMS: Mapping[str, Callable[[SeveralHosts], Harm]] = {
    "worker": worker,
    "leader": _to(signal.SIGKILL, "ray::HostActor"),
    "stop": _to(signal.SIGSTOP, "ray::HostActor"),
    "raylet": _to(signal.SIGKILL, "raylet"),
    "own raylet": _to(signal.SIGKILL, "raylet", HERE),
    "gcs": _to(signal.SIGKILL, "gcs_server", HERE),
    "wire": wire,
    "gone": gone,
}
