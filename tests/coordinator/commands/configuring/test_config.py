"""`numoe config`: what serve would have, and who chose it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from numoe.coordinator.settings import ServeSettings
from tests.coordinator.commands.numoe_process import numoe


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "numoe.toml"
    path.write_text("sequences = 7\nstep_tokens = 100\nqueue_length = 5\n")
    monkeypatch.setenv("NUMOE_STEP_TOKENS", "200")
    monkeypatch.setenv("NUMOE_QUEUE_LENGTH", "6")
    return path


def test_each_setting_is_told_with_who_chose_it(file: Path) -> None:
    done = numoe("config", "--json", "--config", str(file), "--step-tokens", "300", "-ctk", "q8_0", "-c", "4096")
    assert done.returncode == 0, done.stderr
    told = {one["name"]: (one["group"], one["value"], one["origin"]) for one in json.loads(done.stdout)}
    assert told["sequences"] == ("engine", "7", str(file))
    assert told["queue_length"] == ("engine", "6", "environment")
    assert told["step_tokens"] == ("engine", "300", "flag")
    assert told["cache_type_k"] == ("engine", "q8_0", "flag -ctk")
    assert told["context_tokens"] == ("engine", "4096", "flag -c")
    assert told["kv_tokens"] == ("engine", "4096", "flag -c")
    assert told["cache_type_v"] == ("engine", "", "default")
    groups = {group.name: type(getattr(ServeSettings(), group.name)) for group in fields(ServeSettings)}
    assert list(told) == [field.name for group in groups.values() for field in fields(group)]


def test_people_see_a_table_and_may_leave_defaults_out(file: Path) -> None:
    done = numoe("config", "--chosen", "--config", str(file), "--host", "127.0.0.1", "-np", "3", "-fa")
    assert done.returncode == 0, done.stderr
    rows = [line.split(maxsplit=2) for line in map(str.strip, done.stdout.splitlines()) if line.startswith("--")]
    assert rows == [
        ["--address", "127.0.0.1:50151", "flag --host"],
        ["--step-tokens", "200", "environment"],
        ["--sequences", "3", "flag -np"],
        ["--queue-length", "6", "environment"],
    ]
    assert "always so here" in done.stderr


def test_what_serve_would_refuse_is_refused() -> None:
    words = ("--address", "0.0.0.0:1")
    refused, served = numoe("config", *words), numoe("serve", *words)
    assert (refused.returncode, refused.stderr) == (2, served.stderr)
    assert "--insecure" in refused.stderr
