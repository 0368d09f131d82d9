"""Starts a service on several hosts: who they are, which layers each runs, and the pipeline of all."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import structlog

from numoe.coordinator.cluster.certificates import HostCredentials, load_credentials
from numoe.coordinator.cluster.host_node import JoinedRay
from numoe.coordinator.cluster.host_state import HOW, HostState, read_state, read_token

# isort: split
import ray

from numoe.coordinator.limits import step_limits
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.stages.file_identity import same_model
from numoe.coordinator.stages.forecast import forecast_here, layer_bytes
from numoe.coordinator.stages.host_actor import HostOrder, Refusal
from numoe.coordinator.stages.link import Wire
from numoe.coordinator.stages.own_layers import load_layers
from numoe.coordinator.stages.pipeline import Hosts, Pipeline
from numoe.coordinator.stages.ray_host import RayHost, end_actor, living_hosts, start_actor
from numoe.coordinator.stages.step_messages import largest_message
from numoe.coordinator.workers.actors import fetch
from numoe.model.architectures.spec import ModelSpec, stage_of
from numoe.model.planning.prediction.host_layers import HostForecast, HostLayers, LayerBytes, share_layers
from numoe.protos.errors import NumoeError, ServiceError, SetupError, WorkerLost

POLL_SECONDS = 0.1
FORECAST_SECONDS = 180.0  # of imports, mostly, on busy cores
PARKED_SECONDS = 60.0  # for which another host's weights outlive the process that directs its workers

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Cluster:
    """The hosts that there are."""

    state: HostState  # of this one
    node: JoinedRay
    others: tuple[str, ...]  # addresses, in their order

    def hosts(self, wanted: str) -> tuple[str, ...]:
        """The other hosts to serve on: `wanted` is "auto" for all, a number with this one, or a file of addresses."""
        if wanted == "auto":
            return self.others
        if wanted.isdecimal():
            count = int(wanted)
            if not 1 <= count <= 1 + len(self.others):
                raise SetupError(f"--hosts is {count}, and {1 + len(self.others)} are there: {', '.join(self._all)}")
            return self.others[: count - 1]
        named = _read_hosts(Path(wanted))
        if missing := [host for host in named if host not in self._all]:
            raise SetupError(f"--hosts {wanted}: no node runs on {', '.join(missing)}; found {', '.join(self._all)}")
        return tuple(host for host in named if host != self.state.ip)

    @property
    def _all(self) -> tuple[str, ...]:
        return (self.state.ip, *self.others)


def _read_hosts(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--hosts is {path}, expected auto, a number, or a file of addresses: {error}") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def join_cluster(progress: LoadProgress) -> Cluster:
    """Connect to the node of this host. Raises SetupError: there is none."""
    state = read_state()
    if state is None:
        raise SetupError(f"no node of a cluster runs on this host: {HOW}")
    node = JoinedRay(state, read_token(Path(state.token)))
    node.start(lambda: progress("starting", 0, 0))
    return Cluster(state, node, tuple(sorted(ip for ip in living_hosts() if ip != state.ip)))


def ask_forecasts(
    hosts: Sequence[str], path: Path | None, settings: ServeSettings, look: Callable[[], None]
) -> list[HostForecast]:
    """What each host says of itself. Raises SetupError: one has not the model, or cannot serve it."""
    end = time.monotonic() + FORECAST_SECONDS

    def look_on() -> None:
        look()
        if time.monotonic() > end:
            raise ServiceError(f"not all of {', '.join(hosts)} say within {FORECAST_SECONDS:.0f} s how fast they are")

    actors = [start_actor(host) for host in hosts]
    try:
        found: list[Any] = [fetch(one.forecast.remote(path, settings), look_on) for one in actors]
    except ray.exceptions.RayError as error:
        raise WorkerLost(f"a host was lost while it was asked: {str(error).partition(chr(10))[0]}") from error
    finally:
        for actor in actors:
            end_actor(actor)
    for host, one in zip(hosts, found, strict=True):
        if isinstance(one, Refusal):
            raise SetupError(f"host {host}: {one.message}")
    return found


@dataclass(frozen=True, slots=True)
class SharedHosts:
    """Which host runs which layers, and what that rests on."""

    hosts: tuple[str, ...]  # addresses, this one first
    forecasts: tuple[HostForecast, ...]
    bytes: LayerBytes
    layers: HostLayers


def share_hosts(
    path: Path | None,
    spec: ModelSpec,
    settings: ServeSettings,
    hosts: tuple[str, ...],
    look: Callable[[], None] = lambda: None,
) -> SharedHosts:
    """Ask all hosts, of which the first is this one, and share the layers out. Raises SetupError, PlanError."""
    forecasts = (forecast_here(spec, settings), *ask_forecasts(hosts[1:], path, settings, look))
    sizes = layer_bytes(spec, settings)
    return SharedHosts(hosts, forecasts, sizes, share_layers(sizes, forecasts))


def plan_hosts(path: Path | None, spec: ModelSpec, settings: ServeSettings) -> SharedHosts:
    """As a service on the hosts of the settings would share the layers out. Raises SetupError, PlanError."""
    cluster = join_cluster(lambda phase, done, total: None)
    try:
        hosts = (cluster.state.ip, *cluster.hosts(settings.workers.hosts or "auto"))
        return share_hosts(path and path.absolute(), spec, settings, hosts)
    finally:
        cluster.node.end(keep_logs=True)


def start_pipeline(
    path: Path | None, spec: ModelSpec, settings: ServeSettings, hosts: str, progress: LoadProgress
) -> Pipeline:
    """Start workers on all hosts, and have each load its layers.

    Raises:
        SetupError: there is no cluster, or a host cannot become what it is to.
        ServiceError: the workers did not start in time.
    """

    def load(choose: Callable[[Cluster], tuple[str, ...]], progress: LoadProgress) -> Hosts:
        cluster = join_cluster(progress)
        try:
            return _load(path, spec, settings, cluster, choose(cluster), progress)
        except BaseException:
            cluster.node.end(keep_logs=True)
            raise

    def load_anew(remaining: tuple[str, ...], look: Callable[[], None]) -> Hosts:
        chosen = lambda cluster: tuple(host for host in remaining if host in cluster.others)  # noqa: E731
        return load(chosen, lambda phase, done, total: look())

    loaded = load(lambda cluster: cluster.hosts(hosts), progress)
    pipeline = Pipeline(loaded, settings.workers.step_timeout_seconds, load_anew)
    try:
        pipeline.open()
    except BaseException:
        pipeline.close()
        raise
    return pipeline


def _load(
    path: Path | None,
    spec: ModelSpec,
    settings: ServeSettings,
    cluster: Cluster,
    others: Sequence[str],
    progress: LoadProgress,
) -> Hosts:
    own_settings = replace(settings, workers=replace(settings.workers, expert_stats=None))
    path = path and path.absolute()
    hosts = (cluster.state.ip, *others)
    shared = share_hosts(path, spec, own_settings, hosts, lambda: progress("starting", 0, 0)).layers
    log_shares(shared, hosts, spec)
    ends = [*shared.starts[1:], spec.layers]
    parts = [stage_of(spec, start, stop) for start, stop in zip(shared.starts, ends, strict=True)]
    limits = step_limits(settings.engine, spec.context_length)
    credentials = _own_credentials(cluster.state, others, settings)
    wire = Wire(version("numoe"), secrets.token_hex(8), largest_message(limits, spec.width))
    parked = replace(own_settings.workers, survive_coordinator=_parked(own_settings))
    order = HostOrder(
        path=path,
        settings=replace(own_settings, workers=parked),
        fingerprint=same_model(spec, settings.model.packed),
        first_layer=0,
        layers=0,
        address="",
        name="",
        wire=wire,
        secure=credentials is not None,
    )
    started = [
        RayHost(
            ip,
            part,
            replace(
                order,
                first_layer=part.first_layer,
                layers=part.layers,
                address=f"{ip}:{cluster.state.ports.stream}",
                name=ip,
            ),
        )
        for ip, part in zip(others, parts[1:], strict=True)
    ]
    told, own = _Progress(progress, 1 + len(started)), None
    try:
        with ThreadPoolExecutor(1 + len(started), thread_name_prefix="numoe-hosts") as pool:
            loading = [pool.submit(host.begin, told.of(number)) for number, host in enumerate(started, 1)]
            own = pool.submit(load_layers, parts[0], own_settings, told.of(0), cluster.node)
            every: list[Future[Any]] = [own, *loading]
            while wait(every, POLL_SECONDS).not_done:
                if any(one.done() and one.exception() for one in every):
                    told.give_up()
                told.tell()
            failures = [failure for one in every if (failure := one.exception()) is not None]
            for failure in sorted(failures, key=lambda one: isinstance(one, GivenUp)):
                raise failure  # the first cause, not what it ended
            group = own.result()
    except BaseException:
        for host in started:
            host.close()
        if own is not None and own.done() and own.exception() is None:
            own.result().close()
        raise
    return Hosts(group, tuple(started), replace(wire, credentials=credentials))


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


def log_shares(shared: HostLayers, hosts: Sequence[str], spec: ModelSpec) -> None:
    """Say which host runs which layers, and how fast that should be."""
    ends = [*shared.starts[1:], spec.layers]
    for host, start, stop, seconds in zip(hosts, shared.starts, ends, shared.seconds, strict=True):
        _log.info("host_layers", host=host, first=start, last=stop - 1, milliseconds=round(1e3 * seconds, 2))
    if shared.one_host is not None:
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
