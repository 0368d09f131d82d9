"""What a host's node tells other processes of this user on the same host: where its Ray is, and by which processes."""

from __future__ import annotations

import json
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from numoe.protos.errors import SetupError
from numoe.protos.folders import make_private, runtime_folder

STATE_FILE = "host.json"
TOKEN_FILE = "cluster-token"
TOKEN_BYTES = 32
HOW = "start it with `numoe host start --head`, or --join ADDRESS on any host but the first"


@dataclass(frozen=True, slots=True)
class HostPorts:
    """What the processes of a host listen on, counted on from one number, so that a firewall has one range to open."""

    first: int = 50160

    @property
    def gcs(self) -> int:
        """Of Ray's list of processes, on the first host."""
        return self.first

    @property
    def raylet(self) -> int:
        """Of who starts processes."""
        return self.first + 1

    @property
    def objects(self) -> int:
        """Of who passes small objects on."""
        return self.first + 2

    @property
    def environments(self) -> int:
        """Of the agent that makes environments."""
        return self.first + 3

    @property
    def stream(self) -> int:
        """Of the stream of steps, by numoe."""
        return self.first + 4

    @property
    def workers(self) -> tuple[int, int]:
        """The first and the last one of Ray's worker processes."""
        return self.first + 10, self.first + 89


@dataclass(frozen=True, slots=True)
class HostState:
    """A node that runs."""

    pid: int  # of `numoe host start`
    started: int  # when that process did, in ticks since the machine's start: a pid is used again
    cluster: str  # ADDRESS:PORT of the first host's GCS
    ip: str  # of this host
    port: int  # the first of HostPorts
    session: str  # the folder of Ray's logs and sockets
    token: str  # the path of the file
    certificates: str | None  # the folder; None: there are none, and streams go as they are
    processes: dict[str, int]  # pids, by their kind

    @property
    def ports(self) -> HostPorts:
        """What it listens on."""
        return HostPorts(self.port)


def state_path() -> Path:
    """Where the node of this user on this host tells of itself."""
    return runtime_folder() / STATE_FILE


def write_state(state: HostState) -> None:
    """Tell of a node, in a file that is whole whenever it is read."""
    path = state_path()
    make_private(path.parent, path.parent)
    written = path.with_name(f"{path.name}.{os.getpid()}")
    written.write_text(json.dumps(asdict(state)))
    written.chmod(0o600)
    written.rename(path)


def read_state() -> HostState | None:
    """The node that runs on this host; None: there is none."""
    try:
        found = HostState(**json.loads(state_path().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if start_of(found.pid) == found.started else None


def start_of(pid: int) -> int:
    """When a process started, in ticks since the machine did; -1: there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -1


def remove_state() -> None:
    """The node has ended."""
    with suppress(OSError):
        state_path().unlink()


def default_token_path() -> Path:
    """$XDG_CONFIG_HOME/numoe/cluster-token, or the same in ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".config"
    return folder / "numoe" / TOKEN_FILE


def make_token(path: Path) -> None:
    """Write a new token where there is none yet."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(TOKEN_BYTES) + "\n")


def read_token(path: Path) -> str:
    """The token that all hosts of a cluster share. Raises SetupError: there is none, or others may read it."""
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno())
            token = file.read().strip()
    except OSError as error:
        remedy = "copy it from the first host, where `numoe host start --head` made it"
        raise SetupError(f"the cluster's token {path} cannot be read: {error.strerror}; {remedy}") from error
    if mode.st_uid != os.geteuid() or stat.S_IMODE(mode.st_mode) & 0o077:
        found = f"user {mode.st_uid} owns it, mode {stat.S_IMODE(mode.st_mode):o}"
        raise SetupError(f"the cluster's token {path} is not this user's alone ({found}): chmod 600 {path}")
    if len(token) < 2 * TOKEN_BYTES or not token.isalnum():
        raise SetupError(f"the cluster's token {path} is none: expected {2 * TOKEN_BYTES} letters and digits")
    return token
