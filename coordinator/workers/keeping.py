"""The keeper of this service: the process that holds the workers' weights, so that no loss has them read again.

One is started with the workers and ends with this process. With --survive-coordinator it stays that long after a
coordinator that did not end in order, and the next one of the same model and user adopts it, with the weights, and with
the owners of whole experts as they were.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path

import structlog

from numoe.coordinator.programs import last_line, open_errors
from numoe.coordinator.settings import WorkerSettings
from numoe.keeper import process
from numoe.keeper.client import KeeperClient, KeeperGone, Kept, close_all
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.shared_pages import shared_huge_pages
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import ShardPlan
from numoe.protos.errors import SetupError
from numoe.protos.folders import make_private, runtime_folder

LOADED = "/loaded"  # ends the names under which workers keep what they loaded at once, see kept_memory.py
# Of this process: which plan was made, before experts moved, and who holds those of each layer.
PLAN, OWNERS = "plan/made", "plan/owners/"

_NUMBERS = count()  # of the keepers of this process

_log = structlog.get_logger()


class Keeping:
    """One keeper after another, as they die; used by one thread at a time."""

    def __init__(self, spec: ModelSpec, seconds: float, *, required: bool = False) -> None:
        """`seconds`: how long it stays once this process is dead. `required`: without one nothing is to start."""
        self._model, self._seconds, self._required = sha256(repr(spec).encode()).hexdigest()[:16], seconds, required
        self._made = ""  # a digest of the plan that was made; "": nobody asked for one that is obeyed
        self._client: KeeperClient | None = None
        self._process: subprocess.Popen[bytes] | None = None  # None: there is no keeper, or it was adopted
        self.socket: Path | None = None  # None: there is no keeper

    def adopt(self) -> dict[int, int]:
        """Adopt what a coordinator of the same model left; returns the bytes that are kept, by node."""
        found: dict[int, int] = {}
        for path in sorted(runtime_folder().glob(f"{self._model}-*.keeper")) if self._seconds else ():
            client = KeeperClient(path)
            with suppress(KeeperGone):
                if client.adopt(os.getpid(), self._seconds):
                    self.socket, self._client = path, client
                    for name, note in _notes(client.items()):
                        if name.endswith(LOADED) and isinstance(note, dict):
                            found[note["node"]] = found.get(note["node"], 0) + note["bytes"]
                    _log.info("keeper_adopted", bytes=sum(found.values()))
                    break
        return found

    def start(self, plan: ShardPlan) -> None:
        """Have a keeper for the workers of a plan, unless one lives.

        Raises:
            SetupError: it cannot be started, and was asked for.
        """
        if self._client is not None:
            with suppress(KeeperGone):
                self._client.look()
                return
            _log.warning("keeper_lost", effect="weights are read again now")
        self._forget()
        try:
            self._start()
        except (SetupError, OSError) as error:
            if self._required:
                raise SetupError(f"no keeper of weights: {error}") from error
            _log.warning("keeper_failed", error=str(error))
        if self._made:
            self._put(PLAN, self._made)
        for layer, owners in enumerate(plan.experts):
            if owners is not None:
                self.keep_owners(layer, owners)

    def _start(self) -> None:
        folder = runtime_folder()
        make_private(folder, folder)
        _remove_unheard(folder)
        path = folder / f"{self._model}-{os.getpid()}-{next(_NUMBERS)}.keeper"
        command = [sys.executable, "-I", "-S", process.__file__, str(path), str(os.getpid()), str(self._seconds)]
        with open_errors() as errors:
            keeper = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
            assert keeper.stdout is not None
            with keeper.stdout:
                ready = keeper.stdout.readline()
            self._process = keeper
            if ready != b"ready\n":
                self._forget()
                raise SetupError(f"its process did not start: {last_line(errors) or 'no message'}")
        self.socket, self._client = path, KeeperClient(path)

    def obeyed(self, made: ShardPlan) -> ShardPlan:
        """The plan that was made for this service, but with whole experts where those have them whose weights are kept.

        If they were kept of another plan, it is obeyed as it was made.
        """
        self._made = sha256(repr((made.shards, made.experts)).encode()).hexdigest()
        experts = list(made.experts)
        if self._client is not None:
            with suppress(KeeperGone):
                kept = dict(_notes(self._client.items("plan/")))
                if kept.get(PLAN) == self._made:
                    for layer, owners in enumerate(experts):
                        holders = kept.get(f"{OWNERS}{layer}")
                        if owners is not None and isinstance(holders, list):
                            experts[layer] = ExpertOwners(tuple(map(tuple, holders)))
                else:
                    self._client.remove("plan/")
                    self._client.put(PLAN, self._made)
        return replace(made, experts=tuple(experts))

    def keep_owners(self, layer: int, owners: ExpertOwners) -> None:
        """Note that the whole experts of a layer have other owners now."""
        self._put(f"{OWNERS}{layer}", owners.workers)

    def _put(self, name: str, note: object) -> None:
        if self._client is not None:
            with suppress(KeeperGone):  # which the next start notices
                self._client.put(name, note)

    def distrust(self) -> None:
        """Give all weights back, as workers that took them up were lost again."""
        if self._client is not None:
            with suppress(KeeperGone):
                for worker in {name.partition("/")[0] for name, _ in _notes(self._client.items())} - {"plan"}:
                    self._client.remove(f"{worker}/")

    def end(self) -> None:
        """End it, and with it whatever no process maps any more."""
        if self._client is not None:
            with suppress(KeeperGone):
                self._client.end()
        self._forget()

    def _forget(self) -> None:
        if self.socket is not None:
            with suppress(OSError):
                self.socket.unlink()
        self.socket = self._client = None
        if self._process is not None:
            self._process.kill()  # it may be stopped; if it was told to end, it has nothing left to do
            self._process.wait()
            self._process = None


def wanted_keeping(spec: ModelSpec, chosen: WorkerSettings) -> Keeping | None:
    """Where weights are to be kept: as was said, or else wherever shared memory gets huge pages."""
    required = chosen.keeper == "on" or chosen.survive_coordinator > 0.0
    if required or (chosen.keeper == "auto" and shared_huge_pages()):
        return Keeping(spec, chosen.survive_coordinator, required=required)
    return None


def _remove_unheard(folder: Path) -> None:
    """Remove the sockets of keepers that were killed."""
    for path in folder.glob("*.keeper"):
        try:
            KeeperClient(path).look()
        except KeeperGone as gone:
            if isinstance(gone.__cause__, ConnectionRefusedError):
                path.unlink(missing_ok=True)


def _notes(kept: list[Kept]) -> Iterator[tuple[str, object]]:
    close_all(kept)
    for one in kept:
        yield one.name, one.note
