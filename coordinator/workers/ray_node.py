"""Starts Ray on this host; to be imported before Ray, which reads part of its environment when it is imported.

On a machine that is busy, or reads Ray from a cold disk, its agents may miss a time limit that no setting lengthens
(15 s, Ray 2.60), and its node dies of it. By then what they need is in memory, so that another attempt is quicker.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers hold most of the machine's memory on purpose; Ray's monitor would kill them for it.
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
# Ray runs its workers at nice 15: any other process of the machine would take the cores from a step.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray starts one idle Python process per CPU in advance; nobody would ever use them.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# Ray would print a stack trace when SIGTERM asks this process to drain.
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
# A call after `ray.shutdown`, as a move of an expert may make, would start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# Ray listens on every interface, and runs what anybody sends who knows its token: one of this service, in no file.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_AUTH_TOKEN_PATH", None)

import ray
import structlog
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled
from ray.job_config import JobConfig

from numoe.coordinator.workers.survivors import kill_session
from numoe.protos.errors import ServiceError, SetupError

ATTEMPTS = 4  # of half a minute each
OBJECT_STORE_BYTES = 80 << 20  # Ray's least: nothing large goes through it
LOG_LINES = 5  # of the node's log, told when it did not start
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
logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of how it starts, which is as it should be


def start_ray(
    resources: Mapping[str, float], look: Callable[[], None] = lambda: None, attempts: int = ATTEMPTS
) -> Path:
    """Start Ray's processes of this host, which `ray.shutdown` ends; returns the folder of their logs and sockets.

    Args:
        resources: what its actors can ask for, by name.
        look: called before each attempt; an exception that it raises ends them.
        attempts: how often to try.

    Raises:
        SetupError: Ray cannot run where it is installed, or its folder is somebody else's.
        ServiceError: no attempt made it; the message has the last one's reason and the end of its log.
    """
    _refuse_path(Path(sys.executable))
    _make_own(SESSIONS.parent)
    Config.initialize("")  # reads RAY_AUTH_MODE again, where Ray was imported before this module
    AuthenticationTokenLoader.instance().reset_cache()
    for attempt in range(1, attempts + 1):
        look()
        began = time.time()
        try:
            started = ray.init(
                job_config=_without_folders(),
                _temp_dir=str(SESSIONS),
                address="local",
                num_cpus=1,  # actors ask for none
                resources=dict(resources),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
            )
            return Path(started.address_info["session_dir"])  # type: ignore[attr-defined]  # of a node of our own
        except Exception as error:  # Ray raises bare ones
            told = _end_of_log(began)
            ray.shutdown()
            kill_session(os.getpid())
            if attempt == attempts:
                raise ServiceError(f"Ray did not start, {attempts} times over: {error} {told}".rstrip()) from error
            _log.warning("ray_did_not_start", attempt=attempt, error=str(error), log=told)
    raise AssertionError(f"expected at least one attempt, not {attempts}")


def _refuse_path(python: Path) -> None:
    """Refuse what Ray would try for minutes: it splits the commands of its agents at what looks like a quote."""
    found = sorted(set(str(python)) & set(UNQUOTED))
    if found:
        raise SetupError(f"{python} has {found[0]!r} in its path, where Ray can start nothing: install numoe elsewhere")


def _make_own(folder: Path) -> None:
    """Make a folder that only this user may enter. Raises SetupError: somebody else's lies there."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SetupError(f"{folder} is not a folder of this user's own; remove it, or set TMPDIR to another folder")
    folder.chmod(0o700)


def _without_folders() -> JobConfig:
    """Workers are to import nothing from the current folder, which Ray would put first on their path."""
    config = JobConfig()
    config._runtime_env_has_working_dir = lambda: True  # type: ignore[method-assign]  # no option says it
    return config


def remove_session(folder: Path) -> None:
    """Remove what a node that was shut down leaves: some 200 KB, which Ray itself never removes."""
    shutil.rmtree(folder, ignore_errors=True)


def _end_of_log(began: float) -> str:
    """What the node that was started after `began` (seconds since 1970) said last."""
    sessions = [path for path in SESSIONS.glob(f"session_*_{os.getpid()}") if path.stat().st_mtime >= began - 1.0]
    if not sessions:
        return ""
    log = max(sessions, key=lambda path: path.stat().st_mtime) / "logs/raylet.out"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    wrong = [line for line in lines if re.search(r" [WEFC] \d+ \d+\] ", line)] or lines
    return f"The end of {log}: " + " | ".join(wrong[-LOG_LINES:]) if wrong else f"{log} is empty."
