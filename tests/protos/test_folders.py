"""The cache lies where this user can write, and where nobody else can."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from numoe.protos.errors import SetupError
from numoe.protos.folders import cache_folder, make_private

ROOT = Path(__file__).parents[2]
NOBODY = 54_321  # a user id that no passwd file knows


def set_only(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("cache", [{}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "cache"}])
def test_without_a_path_from_the_root_the_cache_lies_at_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Mapping[str, str]
) -> None:
    set_only(monkeypatch, {"HOME": str(tmp_path), **cache})
    assert cache_folder() == tmp_path / ".cache/numoe"


def test_a_cache_that_is_named_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_only(monkeypatch, {"HOME": "/", "XDG_CACHE_HOME": str(tmp_path)})
    assert cache_folder() == tmp_path / "numoe"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "/"}, {"HOME": "/proc"}, {"HOME": "/nowhere"}])
def test_a_user_without_a_home_has_a_folder_in_the_temporary_one(home: dict[str, str]) -> None:
    program = (
        "import os; from numoe.protos.folders import cache_folder\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY}); print(cache_folder())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment | home, check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert process.stdout == f"{tempfile.gettempdir()}/numoe-{NOBODY}\n", process.stderr


def test_folders_are_made_for_this_user_only_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "numoe/kernels/a", tmp_path / "numoe")
        make_private(tmp_path / "numoe/kernels/a", tmp_path / "numoe")
    finally:
        os.umask(before)
    made = [tmp_path / name for name in ("numoe", "numoe/kernels", "numoe/kernels/a")]
    assert [folder.stat().st_mode & 0o777 for folder in made] == [0o700] * 3


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
@pytest.mark.parametrize("name", ["numoe", "numoe/kernels", "numoe/kernels/a"])
def test_a_folder_in_which_others_may_write_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    (tmp_path / "numoe/kernels/a").mkdir(parents=True, mode=0o700)
    (tmp_path / name).chmod(mode)
    with pytest.raises(SetupError, match=rf"/{name} is not this user's alone \(user \d+ owns it, mode {mode:o}\)"):
        make_private(tmp_path / "numoe/kernels/a", tmp_path / "numoe")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_another_user_and_a_link_of_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "numoe/kernels").mkdir(parents=True, mode=0o700)
    os.chown(tmp_path / "numoe/kernels", NOBODY, NOBODY)
    with pytest.raises(SetupError, match=rf"user {NOBODY} owns it"):
        make_private(tmp_path / "numoe/kernels/a", tmp_path / "numoe")
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(SetupError, match=rf"user {NOBODY} owns it"):
        make_private(tmp_path / "link", tmp_path / "link")
