"""What several commands take: the service to ask, the settings of a service, the machine to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from numoe.coordinator.settings import (
    DEFAULT_ADDRESS,
    LONG_WORD,
    POSITIVE,
    WORD,
    EngineSettings,
    ListenSettings,
    ServeSettings,
    WorkerSettings,
    check_bounds,
)
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.protos.errors import SetupError

if TYPE_CHECKING:
    from numoe.coordinator.commands.client import Client


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Which service to ask."""

    address: Annotated[str, Parameter(env_var="NUMOE_ADDRESS")] = DEFAULT_ADDRESS
    """Where the service listens."""
    timeout_seconds: Annotated[float | None, POSITIVE] = None
    """Give up after this long. Default: never."""

    def connect(self) -> Client:
        """The service's client, to be used in `with`. Raises SetupError for numbers that no message can hold."""
        check_bounds(self)
        from numoe.coordinator.commands.client import Client  # brings gRPC: 0.2 s that `--help` does without

        return Client(self.address, self.timeout_seconds)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CallOptions(ServiceOptions):
    """Which service to ask, and how to draw."""

    max_tokens: Annotated[int | None, WORD] = None
    """Most tokens to generate. Default: what fits the context."""
    stop: tuple[str, ...] | None = None
    """A text that ends the answer; may be given several times."""
    temperature: float | None = None
    """0 always takes the likeliest token; higher is more varied. Default: 0."""
    top_k: Annotated[int | None, WORD] = None
    """Draw among this many likeliest tokens; 0 is all. Default: all."""
    top_p: float | None = None
    """Draw among the likeliest tokens that have this probability together. Default: all."""
    min_p: float | None = None
    """Draw among tokens at least this times as likely as the likeliest. Default: all."""
    repetition_penalty: float | None = None
    """Above 1: makes tokens less likely that occurred in prompt or answer. Default: none."""
    seed: Annotated[int | None, LONG_WORD] = None
    """The same seed gives the same answer. Default: another one each time."""


# A flag is called --address, not --settings.listen.address. Said here, so that settings.py knows of no command line.
for _settings in (ServeSettings, ListenSettings, WorkerSettings, EngineSettings):
    Parameter(name="*")(_settings)


def check_text(name: str, text: str) -> str:
    """The text; raises SetupError where it holds bytes that are no UTF-8, which Python passes on as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SetupError(f"{name} holds bytes that are not UTF-8, from character {error.start + 1} on") from error
    return text


SERVICE_OPTIONS = ServiceOptions()
CALL_OPTIONS = CallOptions()
SERVE_SETTINGS = ServeSettings()
ROOT = Path("/")


def read_machine(root: Path) -> Topology:
    """The machine whose /sys and /proc are in `root`; raises SetupError where they are not."""
    if not (root / "sys/devices/system").is_dir() and not (root / "proc").is_dir():
        raise SetupError(f"{root} holds no copy of a machine: expected folders sys/devices/system and proc in it")
    return read_topology(root)
