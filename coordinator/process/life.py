"""The process behind `numoe serve`: listens at once, loads, serves, drains.

    starting --listen--> loading --workers ready--> serving --signal--> draining --> exit 0
                 |          |                       ^     |
                 |          +--set-up refused       |     +--worker lost--> restarting --restart failed--> exit 1
                 +--port taken: exit 2              +--------------------------+

Health is SERVING in the state of that name only. A second signal ends the draining, a third ends the process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from numoe.coordinator.api.grpc.calls import CallInterceptor
from numoe.coordinator.api.grpc.generation import SERVICE_NAMES, GenerationService, ModelService, PlacementService
from numoe.coordinator.engine.state import EngineState
from numoe.coordinator.process.loading import Loader, ServedModel
from numoe.coordinator.process.rebalancer import rebalance_forever
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ListenSettings, ServeSettings, check_settings
from numoe.protos.errors import AddressInUse, ServiceError, SetupError, Unavailable
from numoe.v1 import generation_pb2_grpc, model_pb2_grpc, placement_pb2_grpc

STATE_POLL_SECONDS = 0.2  # a look at the engine's state costs 2 microseconds; clients are told within this of a change
CLOSE_SECONDS = 1.0  # for answers that are complete but not sent yet
FORCED_EXIT_CODE = 130

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ready:
    """What is announced when requests can be served."""

    address: str
    model: str
    workers: int
    threads: int  # of all workers
    binding: str  # how sure it is that memory and threads are on their nodes, see Placement.binding
    seconds: float  # since the process began to serve


class LoadingInterruptedError(ServiceError):
    """Raised into the launcher's progress report when a signal came while loading."""


class Server:
    """One listening address, and one model behind it once it is loaded."""

    def __init__(
        self, settings: ServeSettings, load: Loader, progress: LoadProgress, announce: Callable[[Ready], None]
    ) -> None:
        check_settings(settings)
        self._settings = settings
        self._load = load
        self._progress = progress
        self._announce = announce
        self._started = time.monotonic()
        self._served: ServedModel | None = None
        self._signals = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._health = health.aio.HealthServicer()
        self._server = self._build()

    async def run(self) -> None:
        """Returns after a drain; raises SetupError, or ServiceError when the service cannot go on."""
        address = _listen(self._server, self._settings.listen.address)
        await self._set_health(serving=False)
        await self._server.start()
        try:
            served = await self._load_unless_stopped()
            if served is not None:
                await self._serve(served, address)
        finally:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(CLOSE_SECONDS)

    def on_signal(self) -> None:
        """What SIGTERM and SIGINT do: drain, then hurry, then leave."""
        self._signals += 1
        self._stop.set()
        if self._signals == 2:
            self._hurry.set()
        if self._signals > 2 or (self._signals == 2 and self._served is None):
            os._exit(FORCED_EXIT_CODE)  # the loading thread cannot be interrupted; workers die with this process

    def served(self) -> ServedModel:
        """The model, once it is loaded."""
        if self._served is None:
            raise Unavailable("the model is still being loaded; try again in a few seconds")
        return self._served

    def _build(self) -> grpc.aio.Server:
        listen = self._settings.listen
        server = grpc.aio.server(
            interceptors=[CallInterceptor()],
            options=_channel_options(listen),
            maximum_concurrent_rpcs=listen.concurrent_requests,
        )
        generation = GenerationService(self.served, self._settings.engine.request_timeout_seconds)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.served), server)
        placement_pb2_grpc.add_PlacementServiceServicer_to_server(PlacementService(self.served), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    async def _load_unless_stopped(self) -> ServedModel | None:
        """None: a signal came first."""
        try:
            served = await asyncio.to_thread(self._load, self._report_loading)
        except LoadingInterruptedError:
            return None
        served.engine.start()
        self._served = served
        return served

    def _report_loading(self, phase: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise LoadingInterruptedError("a signal came while loading")
        self._progress(phase, done, total)

    async def _serve(self, served: ServedModel, address: str) -> None:
        placement = served.workers.placement()
        shards = [worker.shard for worker in placement.workers]
        threads = sum(len(shard.cpus) for shard in shards)
        tasks = [asyncio.create_task(self._mirror_health(served))]
        if self._settings.workers.rebalance == "auto" and any(served.workers.experts()):
            tasks.append(asyncio.create_task(rebalance_forever(served.spec, served.workers)))
        try:
            await self._set_health(serving=True)
            seconds = time.monotonic() - self._started
            self._announce(Ready(address, served.spec.name, len(shards), threads, placement.binding, seconds))
            await _first(self._stop.wait(), served.engine.wait_stopped())
        finally:
            for task in tasks:
                task.cancel()
            await self._health.enter_graceful_shutdown()
            await self._drain(served)
        error = await served.engine.wait_stopped()
        if error is not None:
            raise error

    async def _drain(self, served: ServedModel) -> None:
        status = served.engine.snapshot()
        _log.info("draining", running=status.running, queued=status.queued)
        await _first(served.engine.drain(self._settings.engine.drain_timeout_seconds), self._hurry.wait())
        await served.engine.stop()
        if served.template is not None:
            served.template.close()

    async def _mirror_health(self, served: ServedModel) -> None:
        """Health follows the engine: NOT_SERVING from the loss of a worker until all are back."""
        while True:
            await asyncio.sleep(STATE_POLL_SECONDS)
            await self._set_health(serving=served.engine.snapshot().state is EngineState.SERVING)

    async def _set_health(self, *, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if serving else states.NOT_SERVING
        for name in ("", *SERVICE_NAMES):
            await self._health.set(name, state)


async def serve(
    settings: ServeSettings, load: Loader, progress: LoadProgress, announce: Callable[[Ready], None]
) -> None:
    """Runs a server until SIGTERM or SIGINT; the whole life of the coordinator's process."""
    server = Server(settings, load, progress, announce)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.on_signal)
    await server.run()


def _channel_options(listen: ListenSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # the default lets two servers share a port, and clients reach either
        ("grpc.max_receive_message_length", listen.message_bytes),
        ("grpc.keepalive_time_ms", 30_000),  # a client that vanished without a word holds its slot no longer than this
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]


def _listen(server: grpc.aio.Server, address: str) -> str:
    """The address with its real port; raises AddressInUse or SetupError."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise _why_not(address) from error
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _why_not(address: str) -> SetupError:
    """gRPC only says that it could not listen; a plain socket says why."""
    if address.startswith("unix:"):
        return SetupError(f"cannot listen on {address}: the folder is missing or not writable, or the path too long")
    host, _, port = address.rpartition(":")
    try:
        with socket.create_server((host.strip("[]"), int(port)), family=_family(host), reuse_port=False):
            pass
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return SetupError(f"cannot listen on {address}: {error.strerror or error}")
    return AddressInUse(f"{address} is taken by another process: stop that one, or choose another with --address")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def _first(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Waits for whichever ends first and drops the rest."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
