"""What several commands take: the service to ask, the settings of a service, the machine to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from numoe.coordinator.access.credentials import Credentials
from numoe.coordinator.hub.names import HubName, read_name
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import (
    DEFAULT_ADDRESS,
    LONG_WORD,
    NOT_NEGATIVE,
    POSITIVE,
    WORD,
    EngineSettings,
    ListenSettings,
    ModelSettings,
    ServeSettings,
    WorkerSettings,
    check_bounds,
)
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.protos.errors import SetupError

if TYPE_CHECKING:
    from numoe.coordinator.commands.asking.client import Client


# A flag is called --key-file, not --credentials.key-file.
Parameter(name="*", group="Access")(Credentials)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Which service to ask."""

    address: Annotated[str, Parameter(env_var="NUMOE_ADDRESS")] = DEFAULT_ADDRESS
    """Where the service listens."""
    timeout_seconds: Annotated[float | None, POSITIVE] = None
    """Give up after this long. Default: never."""
    credentials: Credentials = field(default_factory=Credentials)

    def connect(self, flag: str = "--address") -> Client:
        """The service's client, to be used in `with`; `flag` named the address.

        Raises SetupError for numbers that no message can hold, and credentials that are none.
        """
        check_bounds(self)
        access = self.credentials.read(self.address)
        from numoe.coordinator.commands.asking.client import Client  # brings gRPC: 0.2 s that `--help` does without

        return Client(self.address, self.timeout_seconds, self.retrying(), flag, access)

    def retrying(self) -> float:
        """For how many seconds a question is asked again while the service says when to come back."""
        return 0.0


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CallOptions(ServiceOptions):
    """Which service to ask, and how to draw."""

    retry_seconds: Annotated[float, NOT_NEGATIVE] = 300.0
    """Ask again for so long while the service is full or restarting, whenever it says; 0: not at all."""
    max_tokens: Annotated[int | None, WORD] = None
    """Most tokens to generate. Default: what fits the context, in a conversation at most a quarter of it."""
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
    smart_expert_reduction: str | None = None
    """KMIN,T as in 6,1 or 1,0.3: run a token's KMIN most probable experts, and others only if they are at least T times
    as probable as the first. Default: as the service is set."""
    seed: Annotated[int | None, LONG_WORD] = None
    """The same seed gives the same answer. Default: another one each time."""

    def retrying(self) -> float:
        """As said."""
        return self.retry_seconds


@Parameter(name="*", group="Model by name")
@dataclass(frozen=True, slots=True)
class HubOptions:
    """A model by its name on a hub, instead of a file."""

    hf_repo: Annotated[str | None, Parameter(name=("--hf-repo", "-hf", "-hfr"))] = None
    """OWNER/REPO[:QUANT] on Hugging Face, fetched into its cache where it is not there yet. Default QUANT: Q4_K_M, else
    Q8_0, else the first. HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE are obeyed."""
    hf_file: Annotated[str | None, Parameter(name=("--hf-file", "-hff"))] = None
    """The model's file in the repository, or any part of it, instead of QUANT."""
    hf_revision: str | None = None
    """The repository's branch, tag or commit. Default: main."""
    offline: bool = False
    """Ask no hub: the model lies in the cache. So does HF_HUB_OFFLINE=1."""

    def wanted(self, model: Path | None) -> HubName | None:
        """The name; None: none was given. Raises SetupError for one that cannot be, or beside a `model`."""
        if self.hf_repo is None:
            if self.hf_file is not None or self.hf_revision is not None:
                raise SetupError("--hf-file and --hf-revision say which file of a repository: name it with --hf-repo")
            return None
        if model is not None:
            raise SetupError(f"both the file {model} and --hf-repo {self.hf_repo} are named: leave one of them out")
        return read_name(self.hf_repo, self.hf_file, self.hf_revision, self.offline)

    def find(self, model: Path | None, progress: LoadProgress) -> Path | None:
        """The file `model`, or that of the named model, which is fetched first; None: neither was given."""
        wanted = self.wanted(model)
        if wanted is None:
            return model
        from numoe.coordinator.hub.models import fetch_model, find_model

        return fetch_model(find_model(wanted, progress), progress)


# A flag is called --address, not --settings.listen.address. Said here, so that settings.py knows of no command line.
for _settings in (ServeSettings, ModelSettings, ListenSettings, WorkerSettings, EngineSettings):
    Parameter(name="*")(_settings)


SERVICE_OPTIONS = ServiceOptions()
CALL_OPTIONS = CallOptions()
SERVE_SETTINGS = ServeSettings()
HUB_OPTIONS = HubOptions()
ROOT = Path("/")


def read_machine(root: Path) -> Topology:
    """The machine whose /sys and /proc are in `root`; raises SetupError where they are not."""
    if not (root / "sys/devices/system").is_dir() and not (root / "proc").is_dir():
        raise SetupError(f"{root} holds no copy of a machine: expected folders sys/devices/system and proc in it")
    return read_topology(root)
