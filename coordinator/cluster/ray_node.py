"""Ray on this host: its processes, started and watched; to be imported before Ray, which reads its environment then.

On a machine that is busy, or reads Ray from a cold disk, its agents may miss a time limit that no setting lengthens
(15 s, Ray 2.60), and its node dies of it. By then what they need is in memory, so that another attempt is quicker.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers hold most of the machine's memory on purpose; Ray's monitor would kill them for it.
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
# Ray runs its workers at nice 15: any other process of the machine would take the cores from a step.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray starts one idle Python process per CPU in advance; nobody would ever use them.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# Ray would print a stack trace when SIGTERM asks this process to drain.
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
# Of calls whose callers have left it would print traces: what matters of them is told by who gave them up.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
# A call after `ray.shutdown`, as a move of an expert may make, would start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# Ray's client ends the process that it is in when GCS is gone for a minute. No other setting keeps it from that.
os.environ.update(RAY_gcs_rpc_server_reconnect_timeout_s="1000000000")
# Ray listens on every interface, and runs what anybody sends who knows its token: one of this service, in no file.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_AUTH_TOKEN_PATH", None)

import ray
import ray._private.node
import ray._private.services
import ray._private.worker
import structlog
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled
from ray.job_config import JobConfig

from numoe.coordinator.cluster.ray_calls import call_apart, end_ray
from numoe.coordinator.workers.watching.processes import WatchedProcesses
from numoe.coordinator.workers.watching.survivors import end_of_log, hold_session, kill_session, remove_old_sessions
from numoe.protos.errors import NumoeError, ServiceError, SetupError

ATTEMPTS = 4  # of half a minute each
WATCHED = ("gcs_server", "raylet")  # agents end their raylet with themselves, and nobody needs the others
SHUTDOWN_SECONDS = 60.0  # for Ray's own end: 1 s, or 7 where GCS is gone
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
RAYLET_SECONDS = "60"  # without GCS, as when the machine's address changes: then it ends, and is seen to have ended
OBJECT_STORE_BYTES = 80 << 20  # Ray's least: nothing large goes through it
SHARED_MEMORY = Path("/dev/shm")  # where Ray's object store lies, if there is room
SESSION_BYTES = 8 << 20  # of logs, before anything is served
UNQUOTED = "'\"\\\t\n"
MOST_FOLDER_CHARACTERS = 40  # the path of a Unix socket has 107, and Ray adds 64 for those of a session


def _own_folder() -> Path:
    """Where sessions lie: short, and of this user alone, as Ray lets everybody write into what it makes."""
    temporary = Path(tempfile.gettempdir())
    if len(str(temporary)) > MOST_FOLDER_CHARACTERS - len("/numoe-4294967295/ray"):
        temporary = Path("/tmp")
    return temporary / f"numoe-{os.getuid()}"


SESSIONS = _own_folder() / "ray"

_log = structlog.get_logger()
# Ray prints among what a service tells on standard output what its logs have too, and would be waited for at its end.
ray._private.worker.listen_error_messages = lambda worker, threads_stopped: None
# Of its processes, these have nothing to do here, and each takes a second or two of a core, as its agent would:
# the autoscaler, which would tell metrics on every interface, too; the dashboard's server; who copies logs to drivers.
for _unwanted in ("start_monitor", "start_api_server", "start_log_monitor"):
    setattr(ray._private.node.Node, _unwanted, lambda self, **options: None)
logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of how it starts, which is as it should be


class RayNode:
    """Ray's processes of this host, and this process's connection to them; started anew where one of them died.

    Started and ended by one thread at a time; `lost` may be asked by any.
    """

    def __init__(self, resources: Mapping[str, float]) -> None:
        """`resources`: what its actors can ask for, by name."""
        self._resources = dict(resources)
        self._folder: Path | None = None  # of its logs and sockets
        self._mark = -1  # see `hold_session`
        self._names: tuple[str, ...] = ()
        self._watched = WatchedProcesses(())

    @property
    def folder(self) -> Path:
        """Of the logs and sockets of the node that runs."""
        assert self._folder is not None
        return self._folder

    def start(self, look: Callable[[], None] = lambda: None, attempts: int = ATTEMPTS) -> None:
        """Start Ray's processes of this host.

        Args:
            look: called before each attempt and now and then; an exception that it raises ends them.
            attempts: how often to try.

        Raises:
            SetupError: Ray cannot run where it is installed, or its folder is somebody else's.
            ServiceError: no attempt made it; the message has the last one's reason and the end of its log.
        """
        _refuse_path(Path(sys.executable))
        _make_own(SESSIONS.parent)
        remove_old_sessions(SESSIONS)
        _refuse_full_disk()
        Config.initialize("")  # reads RAY_AUTH_MODE again, where Ray was imported before this module
        AuthenticationTokenLoader.instance().reset_cache()
        for attempt in range(1, attempts + 1):
            look()
            began = time.time()
            try:
                folder = call_apart(self._begin, look)
            except NumoeError:  # of `look`; what Ray started so far must go, and nothing waits for the rest
                atexit.unregister(ray.shutdown)
                self._kill_rest(None)
                raise
            except Exception as error:  # Ray raises bare ones
                told = end_of_log(SESSIONS, began)
                self._shut_down(None)
                if attempt == attempts:
                    raise ServiceError(f"Ray did not start, {attempts} times over: {error} {told}".rstrip()) from error
                _log.warning("ray_did_not_start", attempt=attempt, error=str(error), log=told)
            else:
                break
        started = self._processes()
        try:
            self._watched = WatchedProcesses(tuple(started.values()), "process of Ray")
        except NumoeError:
            self._shut_down(folder)
            raise
        self._names, self._folder, self._mark = tuple(started), folder, self._hold(folder)

    def _begin(self) -> Path:
        """One attempt; returns the folder of its logs and sockets."""
        started = ray.init(
            job_config=without_folders(),
            _temp_dir=str(SESSIONS),
            address="local",
            num_cpus=self._cpus,
            resources=self._resources,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
        )
        return Path(started.address_info["session_dir"])  # type: ignore[attr-defined]  # of a node of our own

    @property
    def _cpus(self) -> int:
        """As many processes as Ray starts at once; none asks for any."""
        return max(1, round(sum(self._resources.values())))

    def _processes(self) -> Mapping[str, int]:
        """The pids of those that are watched, by their kind."""
        return watched_of(ray._private.worker._global_node)  # nothing public tells

    def _hold(self, folder: Path) -> int:
        return hold_session(folder)

    def _stop(self) -> None:
        """Disconnect, and end what runs."""
        end_ray(ray.shutdown)

    def _kill_rest(self, folder: Path | None) -> None:
        """Kill what outlives that, as agents without their raylet do for a while."""
        kill_session(os.getpid(), os.getsid(0))

    def lost(self) -> str | None:
        """What died of the processes without which there is no Ray, for people; None: nothing did."""
        if self._folder is None:
            return "processes"  # were ended, and new ones did not start
        died = [f"{self._names[number]} (pid {self._watched.pids[number]})" for number in self._watched.ended()]
        return " and ".join(died) or None

    def end(self, *, keep_logs: bool) -> None:
        """End all of its processes, and remove what they leave in their folder unless that may explain something.

        Raises ServiceError: Ray does not end within SHUTDOWN_SECONDS, and cannot be used again by this process.
        """
        self._watched.close()
        folder, self._folder = self._folder, None
        if folder is None:
            return
        if self._mark >= 0:
            os.close(self._mark)
        self._shut_down(folder)
        if not keep_logs:
            shutil.rmtree(folder, ignore_errors=True)  # some 200 KB, which Ray itself never removes

    def _shut_down(self, folder: Path | None) -> None:
        end = time.monotonic() + SHUTDOWN_SECONDS

        def look() -> None:
            if time.monotonic() > end:
                raise ServiceError(f"Ray does not end within {SHUTDOWN_SECONDS:.0f} s")

        try:
            call_apart(self._stop, look)
        except ServiceError:
            atexit.unregister(ray.shutdown)  # it would hang once more
            raise
        finally:
            self._kill_rest(folder)


def watched_of(node: Any) -> Mapping[str, int]:
    """Of the processes that a node of Ray's started, those that are watched: their pids, by kind."""
    every: Mapping[str, Sequence[Any]] = {} if node is None else node.all_processes
    return {name: one[0].process.pid for name, one in every.items() if name in WATCHED}


def _with_own_patience(start_raylet: Callable[..., Any]) -> Callable[..., Any]:
    """As `start_raylet`, which then waits for a GCS that is gone as long as Ray would, not as long as this process."""

    def start(*arguments: Any, **options: Any) -> Any:
        options["env_updates"] = {**(options.get("env_updates") or {}), RECONNECT: RAYLET_SECONDS}
        return start_raylet(*arguments, **options)

    return start


ray._private.services.start_raylet = _with_own_patience(ray._private.services.start_raylet)


def _with_idle_agent(command_of: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """As `command_of`, by which Ray starts a program of its own; idle_agent.py then takes its agent's arguments."""

    def command(component: str, *arguments: Any, **options: Any) -> list[str]:
        if component == ray._private.ray_constants.PROCESS_TYPE_DASHBOARD_AGENT:
            return [sys.executable, "-I", "-S", str(Path(__file__).with_name("idle_agent.py"))]
        return command_of(component, *arguments, **options)

    return command


ray._private.services._build_python_executable_command_memory_profileable = _with_idle_agent(
    ray._private.services._build_python_executable_command_memory_profileable
)


def _refuse_path(python: Path) -> None:
    """Refuse what Ray would try for minutes: it splits the commands of its agents at what looks like a quote."""
    found = sorted(set(str(python)) & set(UNQUOTED))
    if found:
        raise SetupError(f"{python} has {found[0]!r} in its path, where Ray can start nothing: install numoe elsewhere")


def _make_own(folder: Path) -> None:
    """Make a folder that only this user may enter. Raises SetupError: somebody else's lies there."""
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise SetupError(f"{folder} cannot be made: {error.strerror}; set TMPDIR to a folder with room") from error
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SetupError(f"{folder} is not a folder of this user's own; remove it, or set TMPDIR to another folder")
    folder.chmod(0o700)


def _refuse_full_disk() -> None:
    """Refuse what Ray would try for minutes, without a word of the disk. Raises SetupError."""
    short = shutil.disk_usage(SHARED_MEMORY).free <= OBJECT_STORE_BYTES if SHARED_MEMORY.is_dir() else True
    needed = SESSION_BYTES + (OBJECT_STORE_BYTES if short else 0)
    try:
        SESSIONS.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=SESSIONS) as probe:
            os.posix_fallocate(probe.fileno(), 0, needed)
    except OSError as error:
        wanted = f"{needed >> 20} MiB of disk space for sockets and logs of Ray"
        raise SetupError(
            f"{SESSIONS} cannot take {wanted}: {error.strerror}; make room there, or set TMPDIR to another folder"
        ) from error


def without_folders() -> JobConfig:
    """Workers are to import nothing from the current folder, which Ray would put first on their path."""
    config = JobConfig()
    config._runtime_env_has_working_dir = lambda: True  # type: ignore[method-assign]  # no option says it
    return config
