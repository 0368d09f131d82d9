"""A file with a key of each role, and how a client shows one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from numoe.coordinator.access.key_file import add_key
from numoe.coordinator.access.roles import OF_KEYS
from numoe.coordinator.settings import ServeSettings

Keys = dict[str, str]  # by their names


def make_keys(path: Path, most_open: int | None = None) -> Keys:
    """A key of each role, named like it."""
    return {role.value: add_key(path, role, [role], most_open) for role in OF_KEYS}


def asking(settings: ServeSettings, path: Path) -> ServeSettings:
    """The same settings, with keys."""
    return replace(settings, listen=replace(settings.listen, api_keys=path))


def shown(key: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with the key; "": with none."""
    return (("authorization", f"Bearer {key}"),) if key else ()
