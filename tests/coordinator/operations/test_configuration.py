"""Every setting is shown, with who chose it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from numoe.coordinator.operations.configuration import Setting, effective_settings
from numoe.coordinator.settings import EngineSettings, ListenSettings, ModelSettings, ServeSettings, WorkerSettings


def test_every_setting_is_there_once() -> None:
    shown = effective_settings(ServeSettings(), {})
    groups = {"listen": ListenSettings, "workers": WorkerSettings, "engine": EngineSettings, "model": ModelSettings}
    assert [(one.group, one.name) for one in shown] == [
        (group, field.name) for group, kind in groups.items() for field in fields(kind)
    ]
    assert {one.origin for one in shown} == {"default"}


def test_values_are_for_people_and_say_who_chose_them() -> None:
    workers = WorkerSettings(nodes=(0, 2), plan_file=Path("plan.toml"), allow_remote_memory=True)
    settings = ServeSettings(workers=workers, engine=EngineSettings(step_tokens=64))
    origins = {"nodes": "flag", "plan_file": "numoe.toml", "step_tokens": "environment"}
    shown = effective_settings(settings, origins)
    for expected in (
        Setting("workers", "nodes", "0, 2", "flag"),
        Setting("workers", "plan_file", "plan.toml", "numoe.toml"),
        Setting("workers", "allow_remote_memory", "true", "default"),
        Setting("workers", "threads_per_worker", "", "default"),
        Setting("engine", "step_tokens", "64", "environment"),
    ):
        assert expected in shown
