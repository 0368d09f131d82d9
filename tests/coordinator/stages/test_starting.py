"""Which hosts a service takes, and whether they have the same model."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.coordinator.cluster.host_state import HostState
from numoe.coordinator.cluster.wanted_hosts import NotJoined
from numoe.coordinator.settings import ListenSettings, ServeSettings
from numoe.coordinator.stages.sharing import wait_for_hosts
from numoe.coordinator.stages.starting import _own_credentials, _Progress
from numoe.model.architectures.reading import model_spec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.packed.same_model import same_model
from numoe.protos.errors import NumoeError, SetupError
from tests.tiny_model import TinyShape, write_tiny_model

STATE = HostState(1, 0, "10.0.0.1:50160", "10.0.0.1", 50160, "/tmp/session", "/token", None, {})


def test_hosts_that_join_later_are_waited_for_so_long_and_no_longer() -> None:
    joined: list[str] = []

    def hosts() -> tuple[str, ...]:
        if not joined:
            raise NotJoined("--hosts is 2, and 1 are there")
        return tuple(joined)

    with pytest.raises(NotJoined, match="1 are there"):
        wait_for_hosts(hosts, 0.2, lambda: None)
    assert wait_for_hosts(hosts, 60.0, lambda: joined.append("10.0.0.2")) == ("10.0.0.2",)
    joined.clear()

    def look() -> None:
        raise NumoeError("a signal came")

    with pytest.raises(NumoeError, match="a signal came"):
        wait_for_hosts(hosts, 60.0, look)


def test_a_file_counts_as_the_same_by_its_head_and_the_beginning_of_each_tensor(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("first", "copy", "other")]
    for path in paths:
        write_tiny_model(path, TinyShape())
    first, copy, _ = (same_model(model_spec(open_gguf(path)), None) for path in paths)
    assert first == copy
    tensor = model_spec(open_gguf(paths[2])).layer_tensors[1].down
    with paths[2].open("r+b") as file:
        file.seek(tensor.offset + 5)
        file.write(b"\x7f")
    assert same_model(model_spec(open_gguf(paths[2])), None) != first


def test_steps_go_unprotected_only_where_somebody_said_so() -> None:
    with pytest.raises(SetupError, match=r"steps would go to 10\.0\.0\.2 unencrypted.*numoe host certificates"):
        _own_credentials(STATE, ["10.0.0.2"], ServeSettings())
    insecure = ServeSettings(listen=ListenSettings(insecure=True))
    assert _own_credentials(STATE, ["10.0.0.2"], insecure) is None
    assert _own_credentials(STATE, [], ServeSettings()) is None


def test_progress_is_that_of_all_hosts_together_and_its_end_is_everybodys() -> None:
    told: list[tuple[str, int, int]] = []

    def note(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))
        if done == 30:
            raise NumoeError("a signal came")

    progress = _Progress(note, 2)
    progress.of(0)("loading", 10, 40)
    progress.tell()
    progress.of(1)("loading", 5, 50)
    progress.tell()
    progress.of(0)("loading", 25, 40)
    with pytest.raises(NumoeError, match="a signal came"):
        progress.tell()
    assert told == [("starting", 10, 40), ("loading", 15, 90), ("loading", 30, 90)]
    with pytest.raises(NumoeError, match="given up"):
        progress.of(1)("loading", 6, 50)
