"""What runs on another host of a service, started by Ray: plans its layers, has workers load them, serves steps.

Ray carries orders and reports; steps come by the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import ray
import structlog
from numpy.typing import NDArray

from numoe.coordinator.cluster.certificates import HostCredentials, load_credentials
from numoe.coordinator.cluster.host_state import read_state
from numoe.coordinator.logs import configure_logging
from numoe.coordinator.machine.machine_look import MachineFacts, MachineLook
from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.machine.planning import decide_plan, find_speeds
from numoe.coordinator.profiling.taking import RunningProfile
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.stages.forecast import forecast_here
from numoe.coordinator.stages.host_look import HostLook, look_at
from numoe.coordinator.stages.link import Wire
from numoe.coordinator.stages.own_layers import load_layers
from numoe.coordinator.stages.server import StageServer
from numoe.coordinator.workers.group import HostGroup
from numoe.model.architectures.spec import ModelSpec, stage_of
from numoe.model.machine.topology_reading import read_topology
from numoe.model.packed.same_model import same_model
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.plan import Range, ShardPlan
from numoe.model.planning.prediction.host_layers import HostForecast
from numoe.protos.errors import NumoeError, SetupError, Unavailable, WorkerLost
from numoe.protos.profile import Profile

_log = structlog.get_logger()


Result = TypeVar("Result")


def credentials_here(secure: bool) -> HostCredentials | None:
    """This host's; raises SetupError where one has certificates and the other has none."""
    state = read_state()
    folder = None if state is None else state.certificates
    if secure != (folder is not None):
        found = "has certificates, and the first host has none" if folder else "has none, and the first host has"
        raise SetupError(f"this host {found}: start all with --certificates, or none")
    return None if state is None or folder is None else load_credentials(Path(folder), state.ip)


def _same_spec(path: Path | None, settings: ServeSettings, fingerprint: bytes) -> ModelSpec:
    """What this host's file holds. Raises SetupError: it is not the first host's model."""
    found = read_spec(path, settings)
    if same_model(found, settings.model.packed) != fingerprint:
        problem = f"{path or settings.model.packed} is not the model of the first host"
        raise SetupError(f"{problem}: its head, or one of its tensors' beginnings, differs; copy it again")
    return found


@dataclass(frozen=True, slots=True)
class HostOrder:
    """What a host is to do."""

    path: Path | None  # of the model, the same on all hosts; None: the settings name a packed folder
    settings: ServeSettings
    fingerprint: bytes  # of the model on the first host
    first_layer: int
    layers: int
    plan: ShardPlan | None  # of these layers, where an operator gave one; None: to be made there
    address: str  # to listen on for the stream
    name: str
    wire: Wire  # without credentials, which each host has of its own
    secure: bool  # whether the first host has certificates


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was not done; `lost` workers may come back, all else an operator must mend."""

    message: str
    lost: bool = False
    workers: tuple[int, ...] = ()


def answer(call: Callable[[], Result]) -> Result | Refusal:
    """What a call returns, or why it does not, as it goes through Ray."""
    try:
        return call()
    except WorkerLost as lost:
        return Refusal(str(lost), True, lost.workers)
    except (NumoeError, OSError) as error:
        return Refusal(str(error))


@ray.remote
class HostActor:
    """One other host."""

    def __init__(self) -> None:
        configure_logging()
        self._group: HostGroup | None = None
        self._machine: MachineLook | None = None
        self._server: StageServer | None = None
        self._progress = ("starting", 0, 0)
        self._settings: ServeSettings | None = None  # of what is loaded
        self._profiling: RunningProfile | None = None

    def forecast(self, path: Path | None, settings: ServeSettings, fingerprint: bytes) -> HostForecast | Refusal:
        """How fast this host would run the whole model, and what room it has."""
        return answer(lambda: forecast_here(_same_spec(path, settings, fingerprint), settings))

    def plan(self, path: Path | None, settings: ServeSettings, layers: Range) -> ShardPlan | Refusal:
        """How this host would share these layers out over its workers."""

        def decide() -> ShardPlan:
            spec = stage_of(read_spec(path, settings), layers.start, layers.stop)
            return decide_plan(spec, read_topology(), settings).plan

        return answer(decide)

    def load(self, order: HostOrder) -> str | Refusal:
        """Have workers load the layers ordered; returns the address of the stream."""
        return answer(lambda: self._load(order))

    def progress(self) -> tuple[str, int, int]:
        """How far loading is."""
        return self._progress

    def restore(self) -> Refusal | None:
        """Have all workers live, loaded and idle."""
        return answer(self._restore)

    def look(self) -> HostLook:
        """How this host's workers are."""
        return look_at(self._running)

    def machine(self) -> MachineFacts | Refusal:
        """What this machine is, and what its memory is used for."""
        look = self._machine
        assert look is not None
        return answer(lambda: look.look(self._running.placement().workers))

    def move_expert(self, move: ExpertMove) -> Refusal | None:
        """Move an expert between workers of this host."""
        return answer(lambda: self._running.move_expert(move))

    def begin_profile(self, level: int) -> Refusal | None:
        """Have threads note of the steps to come what the level says."""

        def begin() -> None:
            self.close_profile()
            self._profiling = self._running.begin_profile(level)

        return answer(begin)

    def end_profile(self) -> Profile | Refusal:
        """What they noted since; its peaks are those that were measured here."""

        def end() -> Profile:
            if self._profiling is None or self._settings is None:
                raise Unavailable("no profile was begun here")
            speeds = find_speeds(read_topology(), self._settings.workers)
            return self._running.end_profile(
                self._profiling, lambda node: speeds.node_bandwidth.get(node, 0.0), speeds.source
            )

        return answer(end)

    def close_profile(self) -> None:
        """Have them note no more."""
        if self._profiling is not None:
            self._profiling.close()
            self._profiling = None

    def close(self) -> NDArray[np.int64] | None:
        """End all that was started here; returns all that its experts were chosen, [L, E]."""
        if self._server is not None:
            self._server.close()
        if self._group is None:
            return None
        self._group.close()
        return self._group.expert_counts()

    @property
    def _running(self) -> HostGroup:
        assert self._group is not None
        return self._group

    def _load(self, order: HostOrder) -> str:
        whole = _same_spec(order.path, order.settings, order.fingerprint)
        wire = replace(order.wire, credentials=credentials_here(order.secure))  # refused before minutes of loading
        spec = stage_of(whole, order.first_layer, order.first_layer + order.layers)
        self._settings = order.settings
        self._machine = MachineLook(order.settings.workers)
        self._group = load_layers(spec, order.settings, self._note_progress, told=order.plan)
        timeout = order.settings.workers.step_timeout_seconds
        self._server = StageServer(order.address, order.name, spec, self._group, wire, timeout)
        return self._server.address

    def _note_progress(self, phase: str, done: int, total: int) -> None:
        self._progress = (phase, done, total)

    def _restore(self) -> None:
        assert self._server is not None
        self._server.end_session()
        try:
            self._running.check()
        except WorkerLost as lost:
            _log.warning("workers_lost", error=str(lost))
            self._running.restart(lambda: None)
