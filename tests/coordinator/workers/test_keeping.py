"""The service's keeper is started, found again by the next service of the same model, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]
import pytest

from numoe.coordinator.settings import WorkerSettings
from numoe.coordinator.workers import keeping
from numoe.coordinator.workers.keeping import Keeping, wanted_keeping
from numoe.keeper import process
from numoe.keeper.client import KeeperClient
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.protos.errors import SetupError
from tests.coordinator.workers.holders import PLAN, SPEC
from tests.keeper.running import Running

OTHER = replace(SPEC, name="another")
STAY_SECONDS = 60.0


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where sockets are; short, as the path of a socket has 107 characters."""
    with TemporaryDirectory(prefix="k", dir="/tmp") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name) / "numoe"


@pytest.fixture
def kept() -> Iterator[Keeping]:
    one = Keeping(SPEC, 0.0)
    one.start(PLAN)
    yield one
    one.end()


def keepers() -> list[psutil.Process]:
    """Those of this process."""
    return [one for one in psutil.Process().children() if one.cmdline()[3:4] == [process.__file__]]


def left_behind(folder: Path, spec: object = SPEC) -> Running:
    """A keeper whose coordinator was killed, with weights of 5 bytes on node 0 and 7 on node 1."""
    folder.mkdir(mode=0o700, exist_ok=True)
    model = Keeping(spec, 0.0)._model  # type: ignore[arg-type]
    left = Running(folder / f"{model}-1.keeper", STAY_SECONDS)
    for worker, size in enumerate((5, 7)):
        left.client.put(f"{worker}/loaded", {"node": worker, "bytes": size})
    left.end_owner()
    while left.client.adopt(2**22 + 1, STAY_SECONDS) is False:  # until it has noticed; adopted by nobody
        pass
    return left


def test_a_keeper_lives_as_long_as_it_is_wanted(kept: Keeping, folder: Path) -> None:
    assert kept.socket is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    [keeper] = keepers()
    socket = kept.socket
    kept.start(PLAN)
    assert (keepers(), kept.socket) == ([keeper], socket)
    KeeperClient(socket).put("0/loaded", 1)
    kept.end()
    assert list(folder.iterdir()) == []
    assert keepers() == []
    assert kept.socket is None


def test_a_keeper_that_died_is_replaced_by_one_that_has_nothing(kept: Keeping) -> None:
    assert kept.socket is not None
    KeeperClient(kept.socket).put("0/loaded", 1)
    [keeper] = keepers()
    keeper.kill()
    psutil.wait_procs([keeper], 20)
    kept.distrust()
    kept.keep_owners(0, ExpertOwners(((0,), (1,))))
    kept.start(PLAN)
    assert KeeperClient(kept.socket).items() == []
    assert len(keepers()) == 1


def test_what_a_killed_coordinator_left_is_adopted_by_the_next_of_the_same_model(folder: Path) -> None:
    left = left_behind(folder)
    try:
        assert Keeping(OTHER, STAY_SECONDS).adopt() == {}
        assert Keeping(SPEC, 0.0).adopt() == {}, "--survive-coordinator was not asked for"
        kept = Keeping(SPEC, STAY_SECONDS)
        assert kept.adopt() == {0: 5, 1: 7}
        kept.start(PLAN)
        assert kept.socket == left.path
        assert Keeping(SPEC, STAY_SECONDS).adopt() == {}, "this process lives"
        kept.end()
        assert left.keeper.wait(20) == 0
    finally:
        left.close()


def test_a_socket_behind_which_nobody_is_is_removed_by_the_next_service(folder: Path) -> None:
    left, living = left_behind(folder, OTHER), left_behind(folder)
    left.close()
    assert left.path.exists()
    kept = Keeping(SPEC, 0.0)
    try:
        kept.start(PLAN)
        assert kept.socket is not None
        assert sorted(folder.iterdir()) == sorted([living.path, kept.socket])
    finally:
        kept.end()
        living.close()


def test_owners_are_those_that_were_kept_of_the_same_plan(folder: Path) -> None:
    plan = replace(PLAN, experts=(share_experts([1.0] * 4, 2), *PLAN.experts[1:]))
    moved, left = ExpertOwners(((1,), (0, 1), (1,), (0,))), left_behind(folder)
    try:
        first = Keeping(SPEC, STAY_SECONDS)
        first.adopt()
        assert first.obeyed(plan) == plan
        first.start(plan)
        first.keep_owners(0, moved)
        first.distrust()  # of weights
        next_ = Keeping(SPEC, STAY_SECONDS)
        next_._client = first._client
        assert next_.obeyed(plan) == replace(plan, experts=(moved, *plan.experts[1:]))
        other = replace(plan, shards=plan.shards[:1])
        assert next_.obeyed(other) == other
        assert next_.obeyed(plan) == plan, "what was kept of another plan is of no use any more"
        first.end()
    finally:
        left.close()


def test_a_keeper_that_cannot_start_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "__file__", "/no/such/program.py")
    with pytest.raises(SetupError, match=r"^no keeper of weights: its process did not start: .*can't open file"):
        Keeping(SPEC, 0.0, required=True).start(PLAN)
    unasked = Keeping(SPEC, 0.0)
    unasked.start(PLAN)
    assert unasked.socket is None
    assert keepers() == []


def test_a_folder_that_others_may_write_in_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SetupError, match="is not this user's alone"):
        Keeping(SPEC, 0.0, required=True).start(PLAN)


def test_a_path_that_is_too_long_for_a_socket_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{folder.parent}/{'long' * 30}")
    with pytest.raises(SetupError, match="AF_UNIX path too long"):
        Keeping(SPEC, 0.0, required=True).start(PLAN)


def test_a_keeper_ends_with_a_coordinator_that_is_killed(folder: Path) -> None:
    program = (
        "import os, signal\n"
        "from numoe.coordinator.workers.keeping import Keeping\n"
        "from tests.coordinator.workers.holders import PLAN, SPEC\n"
        "keeping = Keeping(SPEC, 0.0)\n"
        "keeping.start(PLAN); print(keeping.socket, flush=True); os.kill(os.getpid(), 9)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    path = Path(told.stdout.strip())
    assert path.parent == folder, told.stderr
    for _ in range(1000):
        if not path.exists():
            break
        os.sched_yield()
    gone = [one for one in psutil.process_iter(["cmdline"]) if str(path) in (one.info["cmdline"] or [])]
    assert psutil.wait_procs(gone, 20)[1] == []
    assert not path.exists()


@pytest.mark.parametrize(
    ("chosen", "given", "wanted"),
    [("auto", True, True), ("auto", False, False), ("on", False, True), ("off", True, False)],
)
def test_weights_are_kept_where_that_costs_nothing(
    chosen: str, given: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "shared_huge_pages", lambda: given)
    assert (wanted_keeping(SPEC, WorkerSettings(keeper=chosen)) is not None) is wanted  # type: ignore[arg-type]
