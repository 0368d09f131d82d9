"""The service of a campaign: what it holds at a moment, as it tells and as the kernel does, and what is left of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from numoe.v1.operations_pb2 import GetStatusRequest, Status
from numoe.v1.operations_pb2_grpc import OperationsServiceStub
from tests.coordinator.api.http.http_client import ask
from tests.system.clients import Client, connected
from tests.system.serve_process import ServeProcess, end_well

BACK_SECONDS = 1.0  # for what a request held to be nobody's: a step, on a machine that does other things
LOOK_SECONDS = 0.02  # between two looks at a service that tells of itself once a second


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the processes of a service hold of the machine."""

    descriptors: int  # of the coordinator
    coordinator: int  # bytes of memory that it shares with nobody
    workers: int  # bytes, of all processes below it


@dataclass(frozen=True, slots=True)
class Service:
    """A service at work, and a connection to it."""

    server: ServeProcess
    client: Client

    def holdings(self) -> Holdings:
        coordinator = psutil.Process(self.server.process.pid)
        below = coordinator.children(recursive=True)
        return Holdings(coordinator.num_fds(), _own_bytes(coordinator), sum(map(_own_bytes, below)))

    async def status(self) -> Status:
        """As it tells, of a moment up to a second ago."""
        answer = await OperationsServiceStub(self.client.channel).GetStatus(GetStatusRequest())
        assert isinstance(answer.status, Status)
        return answer.status

    async def working(self) -> int:
        """Slots that are taken, as of now."""
        slots = (await ask(self.server.http, "/slots")).json
        return sum(slot["is_processing"] for slot in slots)

    async def idle_faults(self) -> list[str]:
        """What it holds for requests though there are none: it has BACK_SECONDS from now to let go."""
        end = time.time() + BACK_SECONDS
        while True:
            status = await self.status()
            held = held_for_requests(status)
            if not held or status.now > end:
                break
            await asyncio.sleep(LOOK_SECONDS)
        if taken := await self.working():
            held.append(f"{taken} slots are taken")
        return [f"without a request {one}" for one in held]


def held_for_requests(status: Status) -> list[str]:
    """What there is at a moment that requests hold, in words. All KV blocks else are free, or cached for the next."""
    flow = status.flow
    held = {
        "requests run": flow.running,
        "requests wait": flow.queued,
        "KV blocks are used": flow.kv_blocks_used,
        "KV blocks are reserved": flow.kv_blocks_reserved,
        "requests are listed": len(status.requests),
    }
    return [f"{count} {what}" for what, count in held.items() if count]


@asynccontextmanager
async def serving(log: Path, faults: list[str], *arguments: str) -> AsyncIterator[Service]:
    """A service for the length of a block; what should not have been of its end and its log is added to `faults`."""
    server = await asyncio.to_thread(ServeProcess, log, *arguments, "--address", "127.0.0.1:0")
    try:
        async with connected(server.address) as client:
            yield Service(server, client)
    finally:
        faults += await asyncio.to_thread(end_well, server)


def _own_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)
