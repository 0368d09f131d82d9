"""The process behind `numoe serve`: listens at once, loads, serves, drains.

    starting --listen--> loading --workers ready--> serving --signal--> draining --> exit 0
                 |          |                       ^     |
                 |          +--set-up refused       |     +--worker lost--> restarting --restart failed--> exit 1
                 +--port taken: exit 2              +--------------------------+

Health is SERVING in the state of that name only. Draining lets requests at work end and sends those away that wait, who
are told to come back, or better go elsewhere. A second signal ends the draining, a third ends the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from numoe.coordinator.access.key_ring import KeyRing
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.engine.event_log import EventKind, EventLog
from numoe.coordinator.engine.state import EngineState
from numoe.coordinator.logs import finish_log
from numoe.coordinator.operations.configuration import effective_settings
from numoe.coordinator.operations.operations import Operations, Surroundings
from numoe.coordinator.operations.snapshot import Progress, Service
from numoe.coordinator.process.doors import Addresses, Doors
from numoe.coordinator.process.rebalancer import rebalance_forever
from numoe.coordinator.process.request_log import RequestLog, Traces
from numoe.coordinator.process.tracing import start_tracing
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.requests.request_end import RequestEnd
from numoe.coordinator.service_manager import ServiceManager
from numoe.coordinator.settings import ServeSettings, check_settings
from numoe.protos.errors import NumoeError, ServiceError, SetupError, Unavailable

STATE_POLL_SECONDS = 0.2  # a look at the engine's state costs 2 microseconds; clients are told within this of a change
FORCED_EXIT_CODE = 130
HURRY_SECONDS = 0.5  # after a second signal, for the step under way; then the workers are ended in the midst of it
END_SECONDS = 30.0  # for the workers to be gone once no request is open; some hundreds of GB take 10 s to be given back

Loader = Callable[[LoadProgress], ServedModel]


@dataclass(frozen=True, slots=True)
class Ready:
    """What is announced when requests can be served."""

    address: str
    model: str
    workers: int
    threads: int  # of all workers
    binding: str  # how sure it is that memory and threads are on their nodes, see Placement.binding
    seconds: float  # since the process began to serve
    http: str = ""  # the address; "": off


class LoadingInterruptedError(ServiceError):
    """Raised into the launcher's progress report when a signal came while loading."""


class Coordinator:
    """A door that is open at once, and one model behind it once it is loaded.

    A signal ends it within its drain time in every state: a thread that hangs then, in a call of Ray's or of the file
    system, is left behind.
    """

    def __init__(
        self,
        settings: ServeSettings,
        load: Loader,
        progress: LoadProgress,
        announce: Callable[[Ready], None],
        origins: Mapping[str, str] = MappingProxyType({}),
        traces: Traces | None = None,
    ) -> None:
        """`origins`: where the settings that are no defaults come from, see operations/configuration.py."""
        check_settings(settings)
        self._settings = settings
        self._load = load
        self._progress = progress
        self._announce = announce
        self._started = time.monotonic()
        self._service = Service("loading", version("numoe"), os.getpid(), time.time(), "", "")
        self._configuration = effective_settings(settings, origins)
        self._served: ServedModel | None = None
        self._operations: Operations | None = None
        self._manager = ServiceManager()
        self._has_begun = False
        self._signals = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._events = EventLog()
        self._requests = RequestLog(lambda: self._served.spec.name if self._served else "", traces)
        self._keys = KeyRing(settings.listen.api_keys)
        self._doors = Doors(
            settings.listen, self.served_model, self.operations, self.loading, self._report_refused, self._keys
        )

    async def run(self) -> None:
        """Serves until a signal, then drains. Raises SetupError, or ServiceError when the service cannot go on."""
        addresses = await self._doors.open()
        self._service = replace(self._service, grpc=addresses.grpc, http=addresses.http)
        try:
            served = await self._load_unless_stopped()
            if served is not None:
                await self._serve(served, addresses)
        except NumoeError as error:
            await self._close()
            if self._has_begun:  # else the set-up was refused at once, which one line says, and not in the log
                self._events.note(EventKind.STOPPED, "the service ends, as it cannot go on", error=str(error))
            raise
        except BaseException:
            await self._close()
            raise
        await self._close()
        self._events.note(EventKind.STOPPED, "the service has ended as it was told to")

    def on_signal(self) -> None:
        """What SIGTERM and SIGINT do: drain, then hurry, then leave."""
        self._signals += 1
        self._stop.set()
        if self._signals == 2:
            self._hurry.set()
        if self._signals > 2 or (self._signals == 2 and self._served is None):
            os._exit(FORCED_EXIT_CODE)  # the loading thread cannot be interrupted; workers die with this process

    def on_hangup(self) -> None:
        """What SIGHUP does: the file of keys is read anew, if there is one."""
        if not self._keys.asks:
            told = "no file of keys is to be read anew, and certificates are at each connection: nothing is to be done"
            self._events.note(EventKind.HUNG_UP, told)
            return
        try:
            found = self._keys.reload()
        except SetupError as error:
            self._events.note(EventKind.KEYS_REFUSED, f"the keys stay as they were: {error}")
        else:
            ended = f"; {found.ended} calls of keys that are not good any more are ended" if found.ended else ""
            self._events.note(EventKind.KEYS_RELOADED, f"{found.keys} keys are good from now on{ended}")

    def served_model(self) -> ServedModel:
        """The model, once it is loaded; raises Unavailable before."""
        if self._served is None:
            raise Unavailable("the model is still being loaded; try again in a few seconds")
        return self._served

    def loading(self) -> Service:
        """What is known of the service before the model is loaded."""
        return self._service

    def operations(self) -> Operations:
        """The service as operators see it, once it is loaded; raises Unavailable before."""
        if self._operations is None:
            self.served_model()  # which says why
            raise Unavailable("the service is about to be ready; try again in a second")
        return self._operations

    def _report_refused(self, end: RequestEnd) -> None:
        if self._served is not None:
            self._served.engine.counts.note_refused(end.outcome)
        self._requests.report(end)

    def drain(self) -> None:
        """As the first signal; harmless when repeated."""
        if self._signals == 0:
            self.on_signal()

    async def _load_unless_stopped(self) -> ServedModel | None:
        """None: a signal came first."""
        loading = asyncio.create_task(asyncio.to_thread(self._load, self._report_loading))
        await _first(_ended(loading), self._stop.wait())
        await asyncio.wait([loading], timeout=self._settings.engine.drain_timeout_seconds)
        if not loading.done():
            await self._leave("loading does not end", 0)
        try:
            served = loading.result()
        except LoadingInterruptedError:
            return None
        self._note_loading()
        served.engine.start(self._events, self._requests.report)
        self._served = served
        return served

    def _report_loading(self, phase: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise LoadingInterruptedError("a signal came while loading")
        self._note_loading()
        self._service = replace(self._service, loading=Progress(phase, done, total))
        self._progress(phase, done, total)
        self._manager.loading(phase, done, total)

    def _note_loading(self) -> None:
        """Loading has begun, once all is looked at that can be refused before."""
        if not self._has_begun:
            self._has_begun = True
            facts = {"grpc": self._service.grpc, "http": self._service.http or None, "version": self._service.version}
            self._events.note(EventKind.LOADING, "the model is being loaded", **facts)

    async def _serve(self, served: ServedModel, addresses: Addresses) -> None:
        surroundings = Surroundings(replace(self._service, loading=None), self._configuration, self._settings.workers)
        operations = Operations(served.spec, served.workers, served.engine, surroundings, self.drain)
        self._operations = operations
        placement = served.workers.placement()
        shards = [worker.shard for worker in placement.workers]
        threads = sum(len(shard.cpus) for shard in shards)
        forever = self._mirror_health(served), operations.sample_forever(), self._show_life()
        tasks = [asyncio.create_task(one) for one in forever]
        if self._settings.workers.rebalance == "auto" and any(served.workers.experts()):
            tasks.append(asyncio.create_task(rebalance_forever(served.spec, served.workers, operations.move)))
        try:
            self._doors.set_health(serving=True)
            seconds = time.monotonic() - self._started
            told = f"{served.spec.name} is served by {len(shards)} workers"
            facts = {"model": served.spec.name, "workers": len(shards), "threads": threads}
            self._events.note(EventKind.SERVING, told, **facts, binding=placement.binding, seconds=round(seconds, 3))
            ready = Ready(
                addresses.grpc, served.spec.name, len(shards), threads, placement.binding, seconds, addresses.http
            )
            self._announce(ready)
            self._manager.ready(told)
            await _first(self._stop.wait(), served.engine.wait_stopped())
        finally:
            for task in tasks:
                task.cancel()
            self._doors.announce_end()
            await self._drain(served, operations)
        error = await served.engine.wait_stopped()
        if error is not None:
            raise error

    async def _drain(self, served: ServedModel, operations: Operations) -> None:
        status = served.engine.snapshot()
        told = f"{status.running} requests run, {status.queued} wait"
        self._events.note(EventKind.DRAINING, told, running=status.running, queued=status.queued)
        self._manager.stopping(f"draining: {told}")
        await _first(served.engine.drain(self._settings.engine.drain_timeout_seconds), self._hurry.wait())
        operations.close()
        if served.template is not None:
            served.template.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await (served.engine.stop(HURRY_SECONDS) if self._hurry.is_set() else served.engine.stop())
                await served.engine.wait_stopped()
        except TimeoutError:
            await self._leave("the workers do not end", FORCED_EXIT_CODE)

    async def _leave(self, reason: str, code: int) -> None:
        """End this process though a thread of it hangs; the workers watch it, and survivors.py ends Ray's processes."""
        self._events.note(EventKind.END_FORCED, reason)
        await self._close()
        finish_log()
        os._exit(code)

    async def _close(self) -> None:
        self._doors.announce_end()
        await self._doors.close()
        await asyncio.to_thread(self._requests.close)

    async def _mirror_health(self, served: ServedModel) -> None:
        """Health follows the engine: NOT_SERVING from the loss of a worker until all are back."""
        while True:
            await asyncio.sleep(STATE_POLL_SECONDS)
            self._doors.set_health(serving=served.engine.snapshot().state is EngineState.SERVING)

    async def _show_life(self) -> None:
        """To a service manager that watches; what workers do has watchers of its own."""
        while self._manager.watchdog_seconds:
            self._manager.lives()
            await asyncio.sleep(self._manager.watchdog_seconds / 3)


async def serve(
    settings: ServeSettings,
    load: Loader,
    progress: LoadProgress,
    announce: Callable[[Ready], None],
    origins: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Runs a coordinator until SIGTERM or SIGINT: the whole life of its process.

    A person whose terminal goes away is taken to have pressed Ctrl-C; where keys are asked for, SIGHUP is about them.
    """
    traces = start_tracing(version("numoe"), os.environ)
    coordinator = Coordinator(settings, load, progress, announce, origins, traces)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, coordinator.on_signal)
    is_watched = settings.listen.api_keys is None and sys.stdin is not None and sys.stdin.isatty()
    loop.add_signal_handler(signal.SIGHUP, coordinator.on_signal if is_watched else coordinator.on_hangup)
    await coordinator.run()


async def _ended(task: asyncio.Task[Any]) -> None:
    """Waits for its end, however that is; leaves it alone when cancelled."""
    await asyncio.wait([task])


async def _first(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Waits for the one that ends first and cancels the others."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
