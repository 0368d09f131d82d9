"""Starts a service on several hosts, and again where others are there: the workers of all, and the pipeline."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import structlog

from numoe.coordinator.cluster.certificates import HostCredentials, load_credentials
from numoe.coordinator.cluster.host_state import HostState
from numoe.coordinator.cluster.wanted_hosts import parse_wanted
from numoe.coordinator.stages.ray_host import RayHost

# isort: split

from numoe.coordinator.limits import step_limits
from numoe.coordinator.machine.planning import counted_before
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.stages.host_actor import HostOrder
from numoe.coordinator.stages.link import Wire
from numoe.coordinator.stages.own_layers import load_layers, own_settings
from numoe.coordinator.stages.pipeline import Hosts, Pipeline
from numoe.coordinator.stages.sharing import (
    Cluster,
    ask_whether_they_can,
    join_cluster,
    read_hosts_plan,
    share_hosts,
    wait_for_hosts,
    wanted_of,
)
from numoe.coordinator.stages.step_messages import largest_message
from numoe.coordinator.workers.expert_tally import ExpertTally
from numoe.coordinator.workers.group import HostGroup
from numoe.model.architectures.spec import ModelSpec, stage_of
from numoe.model.packed.same_model import same_model
from numoe.model.planning.plan import Range, ShardPlan
from numoe.model.planning.prediction.host_layers import HostLayers
from numoe.protos.errors import HostsMissing, NumoeError, SetupError

POLL_SECONDS = 0.1
PARKED_SECONDS = 60.0  # for which another host's weights outlive the process that directs its workers
WAIT_SECONDS = 1.0  # for other hosts, before requests are told that there are too few
AGAIN_SECONDS = 30.0  # until the same hosts are tried again, as something else may have changed

_log = structlog.get_logger()


class HostsLoader:
    """Loads a model on the hosts that are wanted: at the start, and anew where other hosts are there.

    Implements Loader (pipeline.py); used by one thread at a time, but for `want`.
    """

    def __init__(self, path: Path | None, spec: ModelSpec, settings: ServeSettings) -> None:
        """Raises SetupError, PlanError: what names hosts cannot be read."""
        self._path, self._spec, self._settings = path and path.absolute(), spec, own_settings(settings)
        self._told = read_hosts_plan(spec, settings)
        self._wanted = wanted_of(settings, self._told)
        self._cluster: Cluster | None = None
        self._serving: tuple[str, ...] = ()  # the hosts that have loaded, this one first
        self._waiting = False  # connected to the cluster, as nobody else is
        self._refused: tuple[tuple[str, ...], float, str] | None = None  # hosts that cannot serve, when seen, and why

    def load(self, progress: LoadProgress) -> Hosts:
        """Load on the hosts that are wanted. Raises SetupError, ServiceError."""
        cluster = self._join(progress)
        patience = self._settings.workers.host_gone_seconds
        hosts = wait_for_hosts(lambda: cluster.hosts(self._wanted), patience, lambda: progress("starting", 0, 0))
        if self._told is not None and self._told.hosts[0].address != hosts[0]:
            found = f"the plan begins with host {self._told.hosts[0].address}, and this one is {hosts[0]}"
            raise SetupError(f"{found}: start `numoe serve` there, or change the order")
        loaded = self._load_on(cluster, hosts, progress)
        self._waiting = False
        return loaded

    def load_anew(self, look: Callable[[], None]) -> Hosts:
        """Load on those of the wanted that live. Raises HostsMissing, soon: they cannot serve the model."""
        nothing = lambda phase, done, total: look()  # noqa: E731
        cluster = self._join(nothing)
        hosts = self._wait_for_others(cluster, look)
        try:
            loaded = self._load_on(cluster, hosts, nothing)
        except SetupError as error:
            self._refused = (hosts, time.monotonic(), f"on {', '.join(hosts)} the model cannot be served: {error}")
            raise HostsMissing(self._refused[2]) from error
        self._refused, self._waiting = None, False
        return loaded

    def want(self, wanted: str) -> tuple[str, ...]:
        """Have `load_anew` take these hosts; returns which.

        Raises:
            SetupError: they are not there, have not the model, or serve already; all is then as before.
            ServiceError: they cannot be asked.
        """
        assert self._cluster is not None
        chosen = parse_wanted(wanted)  # by a client of the service, who names no files here
        hosts = self._cluster.hosts(chosen)
        if hosts == self._serving:
            raise SetupError(f"the layers lie on {', '.join(hosts)} already")
        new = [host for host in hosts if host not in self._serving]
        ask_whether_they_can(self._path, self._spec, self._settings, new)
        self._wanted, self._told = chosen, None
        return hosts

    def end(self) -> None:
        """Disconnect from the cluster, where nobody else does."""
        if self._waiting and self._cluster is not None:
            self._cluster.node.end(keep_logs=True)
        self._waiting = False

    def _join(self, progress: LoadProgress) -> Cluster:
        if not self._waiting or self._cluster is None:
            self._cluster = join_cluster(progress)
            self._waiting = True
        return self._cluster

    def _wait_for_others(self, cluster: Cluster, look: Callable[[], None]) -> tuple[str, ...]:
        """The hosts that live now; those that could not serve are not tried again for a while."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            hosts = cluster.hosts(self._wanted, all_of_them=False)
            if self._refused is None or hosts != self._refused[0]:
                return hosts
            if time.monotonic() - self._refused[1] > AGAIN_SECONDS:
                return hosts
            if time.monotonic() > end:
                raise HostsMissing(self._refused[2])
            look()
            time.sleep(POLL_SECONDS)

    def _load_on(self, cluster: Cluster, hosts: tuple[str, ...], progress: LoadProgress) -> Hosts:
        told = self._told
        if told is not None and hosts == tuple(part.address for part in told.hosts):
            ranges: tuple[Range, ...] = tuple(part.layers for part in told.hosts)
            plans: tuple[ShardPlan | None, ...] = tuple(part.plan for part in told.hosts)
            log_shares(hosts, ranges)
        else:
            shared = share_hosts(self._path, self._spec, self._settings, hosts, lambda: progress("starting", 0, 0))
            ranges, plans = shared.ranges, (None,) * len(hosts)
            log_shares(hosts, ranges, shared.layers)
        parts = [stage_of(self._spec, layers.start, layers.stop) for layers in ranges]
        limits = step_limits(self._settings.engine, self._spec.context_length)
        credentials = _own_credentials(cluster.state, hosts[1:], self._settings)
        wire = Wire(version("numoe"), secrets.token_hex(8), largest_message(limits, self._spec.width))
        parked = replace(self._settings.workers, survive_coordinator=_parked(self._settings))
        fingerprint = same_model(self._spec, self._settings.model.packed)
        others = [
            RayHost(
                ip,
                part,
                HostOrder(
                    path=self._path,
                    settings=replace(self._settings, workers=parked),
                    fingerprint=fingerprint,
                    first_layer=part.first_layer,
                    layers=part.layers,
                    plan=plan,
                    address=f"{ip}:{cluster.state.ports.stream}",
                    name=ip,
                    wire=wire,
                    secure=credentials is not None,
                ),
            )
            for ip, part, plan in zip(hosts[1:], parts[1:], plans[1:], strict=True)
        ]

        def load_here(progress: LoadProgress) -> HostGroup:
            return load_layers(parts[0], self._settings, progress, cluster.node, plans[0])

        group = _load_all(load_here, others, progress)
        self._serving = hosts
        return Hosts(group, tuple(others), replace(wire, credentials=credentials), cluster.state.ip)


def _load_all(
    load_here: Callable[[LoadProgress], HostGroup], others: Sequence[RayHost], progress: LoadProgress
) -> HostGroup:
    """Have this host and the others load at once; what fails on one ends all."""
    told, own = _Progress(progress, 1 + len(others)), None
    try:
        with ThreadPoolExecutor(1 + len(others), thread_name_prefix="numoe-hosts") as pool:
            loading = [pool.submit(host.begin, told.of(number)) for number, host in enumerate(others, 1)]
            own = pool.submit(load_here, told.of(0))
            every: list[Future[Any]] = [own, *loading]
            while wait(every, POLL_SECONDS).not_done:
                if any(one.done() and one.exception() for one in every):
                    told.give_up()
                told.tell()
            failures = [failure for one in every if (failure := one.exception()) is not None]
            for failure in sorted(failures, key=lambda one: isinstance(one, GivenUp)):
                raise failure  # the first cause, not what it ended
            return own.result()
    except BaseException:
        for host in others:
            host.close()
        if own is not None and own.done() and own.exception() is None:
            own.result().close()
        raise


def start_pipeline(path: Path | None, spec: ModelSpec, settings: ServeSettings, progress: LoadProgress) -> Pipeline:
    """Start workers on all hosts, and have each load its layers.

    Raises:
        SetupError: there is no cluster, or a host cannot become what it is to.
        ServiceError: the workers did not start in time.
    """
    counted_before(spec, settings.workers)  # refused, where it is not of this model
    tally = ExpertTally(spec, settings.workers.expert_stats)
    loader = HostsLoader(path, spec, settings)
    try:
        loaded = loader.load(progress)
    except BaseException:
        loader.end()
        raise
    pipeline = Pipeline(loaded, settings.workers.step_timeout_seconds, loader, tally)
    try:
        pipeline.open()
    except BaseException:
        pipeline.close()
        raise
    return pipeline


def _own_credentials(state: HostState, others: Sequence[str], settings: ServeSettings) -> HostCredentials | None:
    """What streams to other hosts go by. Raises SetupError: nothing protects them, and nobody said that it need not."""
    if state.certificates is not None:
        return load_credentials(Path(state.certificates), state.ip)
    if others and not settings.listen.insecure:
        problem = f"steps would go to {', '.join(others)} unencrypted, and those would take them from anybody"
        remedy = "make certificates (`numoe host certificates`), and start all hosts with --certificates"
        raise SetupError(f"{problem}: {remedy}; or say --insecure, where nobody else is on that network")
    return None


def _parked(settings: ServeSettings) -> float:
    """How long another host's weights are kept without who directs its workers; asked for, a keeper must be there."""
    asked = settings.workers.survive_coordinator
    return max(PARKED_SECONDS, asked) if asked or settings.workers.keeper == "on" else 0.0


def log_shares(hosts: Sequence[str], ranges: Sequence[Range], shared: HostLayers | None = None) -> None:
    """Say which host runs which layers, and how fast that should be."""
    for number, (host, layers) in enumerate(zip(hosts, ranges, strict=True)):
        fast = {} if shared is None else {"milliseconds": round(1e3 * shared.seconds[number], 2)}
        _log.info("host_layers", host=host, first=layers.start, last=layers.stop - 1, **fast)
    if shared is not None and shared.one_host is not None:
        _log.warning("one_host_is_faster", host=hosts[shared.one_host], reason="it has room for the whole model")


class GivenUp(NumoeError):
    """What ends the others where one host cannot start."""


class _Progress:
    """How far all hosts are together."""

    def __init__(self, progress: LoadProgress, hosts: int) -> None:
        self._progress, self._found = progress, [("starting", 0, 0)] * hosts
        self._lock, self._ended = Lock(), False

    def of(self, host: int) -> LoadProgress:
        """To be told of one host, by any thread."""

        def note(phase: str, done: int, total: int) -> None:
            with self._lock:
                self._found[host] = (phase, done, total)
            if self._ended:
                raise GivenUp("the start was given up")

        return note

    def give_up(self) -> None:
        """Have all others end, as one cannot start."""
        self._ended = True

    def tell(self) -> None:
        """By the thread that waits for all; what it raises ends all."""
        with self._lock:
            found = list(self._found)
        phases = [phase for phase, _, _ in found]
        phase = next(one for one in ("starting", "compiling", "loading", phases[0]) if one in phases)
        try:
            self._progress(phase, sum(done for _, done, _ in found), sum(total for _, _, total in found))
        except BaseException:
            self._ended = True
            raise
