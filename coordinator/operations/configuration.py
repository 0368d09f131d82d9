"""Every setting of the service as it is in effect, and who chose it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from numoe.coordinator.settings import ServeSettings

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting."""

    group: str  # "listen", "workers", "engine", "model"
    name: str  # as in a configuration file: "step_tokens"
    value: str  # "": not set, which leaves the choice to the service
    origin: str  # "default", "flag" (and llama.cpp's, if that was typed), "environment", or a file's path


def effective_settings(settings: ServeSettings, origins: Mapping[str, str]) -> tuple[Setting, ...]:
    """All settings; `origins` names those that are not defaults, by their names."""
    found = []
    for group in fields(settings):
        chosen = getattr(settings, group.name)
        for field in fields(chosen):
            origin = origins.get(field.name, DEFAULT)
            found.append(Setting(group.name, field.name, _shown(getattr(chosen, field.name)), origin))
    return tuple(found)


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)
