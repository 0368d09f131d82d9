"""Which hosts there are, what each says of itself, and how the layers are shared out over them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from numoe.coordinator.cluster.host_node import JoinedRay
from numoe.coordinator.cluster.host_state import HOW, HostState, read_state, read_token
from numoe.coordinator.cluster.ray_calls import inside_ray
from numoe.coordinator.cluster.wanted_hosts import NotJoined, WantedHosts, choose_hosts, read_wanted

# isort: split
import ray
import structlog

from numoe.coordinator.machine.planning import decide_plan, read_plan_text
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.stages.forecast import forecast_here, layer_bytes
from numoe.coordinator.stages.host_actor import Refusal
from numoe.coordinator.stages.own_layers import own_settings
from numoe.coordinator.stages.ray_host import end_actor, living_hosts, start_actor
from numoe.coordinator.workers.actors import fetch
from numoe.model.architectures.spec import ModelSpec, stage_of
from numoe.model.machine.topology_reading import read_topology
from numoe.model.packed.same_model import same_model
from numoe.model.planning.hosts_plan import HostPart, HostsPlan
from numoe.model.planning.plan import Range
from numoe.model.planning.plan_file import hosts_from_toml
from numoe.model.planning.prediction.host_layers import (
    HostForecast,
    HostLayers,
    LayerBytes,
    price_layers,
    share_layers,
)
from numoe.protos.errors import ServiceError, SetupError, WorkerLost

ASK_SECONDS = 180.0  # of imports, mostly, on busy cores
POLL_SECONDS = 0.1

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Cluster:
    """The hosts that there are."""

    state: HostState  # of this one
    node: JoinedRay

    @property
    def others(self) -> tuple[str, ...]:
        """Addresses of those that live now, in their order."""
        return tuple(sorted(ip for ip in living_hosts() if ip != self.state.ip))

    def hosts(self, wanted: WantedHosts, *, all_of_them: bool = True) -> tuple[str, ...]:
        """The hosts to serve on, this one first; what is raised: see choose_hosts."""
        return (self.state.ip, *choose_hosts(wanted, self.state.ip, self.others, all_of_them=all_of_them))


def wait_for_hosts(hosts: Callable[[], tuple[str, ...]], seconds: float, look: Callable[[], None]) -> tuple[str, ...]:
    """What `hosts` returns, once all that are wanted have joined, as hosts that start together do.

    Raises NotJoined: they have not, after so long.
    """
    end, waits = time.monotonic() + seconds, False
    while True:
        try:
            return hosts()
        except NotJoined as missing:
            if time.monotonic() > end:
                raise
            if not waits:
                _log.info("waiting_for_hosts", reason=str(missing), seconds=seconds)
            waits = True
        look()
        time.sleep(POLL_SECONDS)


def join_cluster(progress: LoadProgress) -> Cluster:
    """Connect to the node of this host. Raises SetupError: there is none."""
    state = read_state()
    if state is None:
        raise SetupError(f"no node of a cluster runs on this host: {HOW}")
    node = JoinedRay(state, read_token(Path(state.token)))
    node.start(lambda: progress("starting", 0, 0))
    return Cluster(state, node)


@dataclass(frozen=True, slots=True)
class SharedHosts:
    """Which host runs which layers, and what that rests on."""

    hosts: tuple[str, ...]  # addresses, this one first
    forecasts: tuple[HostForecast, ...]
    bytes: LayerBytes
    layers: HostLayers

    @property
    def ranges(self) -> tuple[Range, ...]:
        """[hosts] layers of the model."""
        return tuple(Range(*cut) for cut in pairwise((*self.layers.starts, len(self.bytes.layers))))


def share_hosts(
    path: Path | None,
    spec: ModelSpec,
    settings: ServeSettings,
    hosts: tuple[str, ...],
    look: Callable[[], None] = lambda: None,
) -> SharedHosts:
    """Ask all hosts, of which the first is this one, and share the layers out. Raises SetupError, PlanError."""
    with _asked(hosts[1:], look) as ask:
        return _share(path, spec, settings, hosts, ask)


def ask_whether_they_can(path: Path | None, spec: ModelSpec, settings: ServeSettings, hosts: Sequence[str]) -> None:
    """Raise SetupError if one of these other hosts has not the model."""
    with _asked(hosts, lambda: None) as ask:
        _ask_forecasts(path, spec, settings, ask)


def plan_hosts(path: Path | None, spec: ModelSpec, settings: ServeSettings) -> tuple[SharedHosts, HostsPlan]:
    """As a service on the hosts of the settings would share everything out. Raises SetupError, PlanError."""
    cluster = join_cluster(lambda phase, done, total: None)
    try:
        path, told = path and path.absolute(), read_hosts_plan(spec, settings)
        hosts = cluster.hosts(wanted_of(settings, told))
        settings = own_settings(settings)
        with _asked(hosts[1:], lambda: None) as ask:
            if told is not None:
                starts = tuple(part.layers.start for part in told.hosts)
                return _share(path, spec, settings, hosts, ask, starts), told
            shared = _share(path, spec, settings, hosts, ask)
            own, *rest = shared.ranges
            here = decide_plan(stage_of(spec, own.start, own.stop), read_topology(), settings).plan
            plans = ask(lambda actor, number: actor.plan.remote(path, settings, rest[number]))
            parts = zip(hosts, shared.ranges, (here, *plans), strict=True)
            return shared, HostsPlan(spec.name, tuple(HostPart(*part) for part in parts))
    finally:
        cluster.node.end(keep_logs=True)


def read_hosts_plan(spec: ModelSpec, settings: ServeSettings) -> HostsPlan | None:
    """The operator's, where there is one. Raises SetupError, PlanError."""
    file = settings.workers.plan_file
    return None if file is None else hosts_from_toml(read_plan_text(file), spec)


def wanted_of(settings: ServeSettings, told: HostsPlan | None) -> WantedHosts:
    """The hosts that the settings ask for. Raises SetupError: the plan names others."""
    wanted = read_wanted(settings.workers.hosts or "auto")
    if told is None:
        return wanted
    named = tuple(part.address for part in told.hosts)
    if wanted != "auto" and wanted != named:
        file = settings.workers.plan_file
        raise SetupError(f"--hosts is {settings.workers.hosts}, and {file} names {', '.join(named)}: say --hosts auto")
    return named


Ask = Callable[[Callable[[Any, int], Any]], list[Any]]  # calls actors, each with its number; what they told


@contextmanager
def _asked(hosts: Sequence[str], look: Callable[[], None]) -> Iterator[Ask]:
    """Actors on these hosts, to be asked in the context."""
    end = time.monotonic() + ASK_SECONDS

    def look_on() -> None:
        look()
        if time.monotonic() > end:
            raise ServiceError(f"not all of {', '.join(hosts)} say within {ASK_SECONDS:.0f} s how fast they are")

    def ask(call: Callable[[Any, int], Any]) -> list[Any]:
        try:
            calls = [call(actor, number) for number, actor in enumerate(actors)]
            found = [fetch(one, look_on) for one in calls]
        except ray.exceptions.RayError as error:
            raise WorkerLost(f"a host was lost while it was asked: {str(error).partition(chr(10))[0]}") from error
        for host, one in zip(hosts, found, strict=True):
            if isinstance(one, Refusal):
                raise SetupError(f"host {host}: {one.message}")
        return found

    with inside_ray():  # an operator may ask while the service ends, or begins Ray anew
        actors = [start_actor(host) for host in hosts]
        try:
            yield ask
        finally:
            for actor in actors:
                end_actor(actor)


def _share(
    path: Path | None,
    spec: ModelSpec,
    settings: ServeSettings,
    hosts: tuple[str, ...],
    ask: Ask,
    starts: tuple[int, ...] | None = None,
) -> SharedHosts:
    """`starts`: where each host's layers begin, if that is not to be decided."""
    forecasts = (forecast_here(spec, settings), *_ask_forecasts(path, spec, settings, ask))
    sizes = layer_bytes(spec, settings)
    layers = share_layers(sizes, forecasts) if starts is None else price_layers(sizes, forecasts, starts)
    return SharedHosts(hosts, forecasts, sizes, layers)


def _ask_forecasts(path: Path | None, spec: ModelSpec, settings: ServeSettings, ask: Ask) -> list[HostForecast]:
    fingerprint = same_model(spec, settings.model.packed)
    return ask(lambda actor, _: actor.forecast.remote(path, settings, fingerprint))
