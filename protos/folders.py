"""Folders of this user that several processes agree on: the cache, and where sockets are while something runs.

A folder in which others could write is none of these: what is compiled, or measured, and kept there is believed.
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path

from numoe.protos.errors import SetupError


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/numoe, or ~/.cache/numoe, or where neither can be written a folder of ours in the temporary one.

    Nothing is made. A variable that is empty, or no path from the root, counts as not set.
    """
    for base in (_from_root("XDG_CACHE_HOME"), _home_cache()):
        if base is not None and _can_be_made(base / "numoe"):
            return base / "numoe"
    return Path(tempfile.gettempdir()) / f"numoe-{os.geteuid()}"


def runtime_folder() -> Path:
    """$XDG_RUNTIME_DIR/numoe, or a folder of ours in the temporary one; nothing is made."""
    base = _from_root("XDG_RUNTIME_DIR")
    if base is not None and _can_be_made(base / "numoe"):
        return base / "numoe"
    return Path(tempfile.gettempdir()) / f"numoe-{os.geteuid()}"


def make_private(folder: Path, below: Path) -> None:
    """Make a folder and those between it and `below`, which is made too, for this user only.

    Raises:
        SetupError: one of them exists, and another user owns it or may write in it.
        OSError: it cannot be made.
    """
    below.parent.mkdir(parents=True, exist_ok=True)
    for one in [*reversed([parent for parent in folder.parents if parent.is_relative_to(below)]), folder]:
        one.mkdir(mode=0o700, exist_ok=True)
        found, trusted = one.lstat(), (0, os.geteuid())
        if stat.S_ISLNK(found.st_mode) and found.st_uid in trusted:
            found = one.stat()
        if found.st_uid not in trusted or found.st_mode & 0o022:
            mode = f"user {found.st_uid} owns it, mode {stat.S_IMODE(found.st_mode):o}"
            problem = f"{one} is not this user's alone ({mode}), expected user {os.geteuid()} and 700"
            raise SetupError(f"{problem}: remove it, as others may have put programs there, or set XDG_CACHE_HOME")


def _from_root(name: str) -> Path | None:
    value = os.environ.get(name, "")
    return Path(value) if os.path.isabs(value) else None


def _home_cache() -> Path | None:
    try:
        return (_from_root("HOME") or Path(pwd.getpwuid(os.geteuid()).pw_dir)) / ".cache"
    except KeyError:  # no HOME, and no such user
        return None


def _can_be_made(folder: Path) -> bool:
    """Whether the folder is there and can be written, or the first of its parents that is there."""
    try:
        while not folder.exists():
            folder = folder.parent
    except OSError:
        return False
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
