"""The heads of files on a hub are read by ranges, and say all that the files would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.hub import heads
from numoe.coordinator.hub.models import find_model, model_heads
from numoe.coordinator.hub.names import read_name
from numoe.coordinator.machine.model_file import read_spec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.made_up.synthetic import write_synthetic_model
from numoe.model.made_up.synthetic_shape import PRESETS
from numoe.protos.errors import ModelFileError, UnsupportedModel
from tests.coordinator.hub.conftest import REPO, await_readers, find, ignore
from tests.coordinator.hub.stand_in import StandIn
from tests.tiny_model import TinyShape, split_paths, write_tiny_model

FileMaker = Callable[[str, int], Path]


def test_of_thirty_gigabytes_a_thousandth_comes(hub: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "M-Q8_0.gguf"
    write_synthetic_model(path, PRESETS["qwen3-30b-a3b"], header_only=True)
    hub.files[REPO], hub.digests = {path.name: path}, {path.name: "ab" * 32}
    with model_heads(find(), ignore) as head:
        read, copy = open_gguf(head), head.stat()
        assert {name: tensor.offset for name, tensor in read.tensors.items()} == {
            name: tensor.offset for name, tensor in open_gguf(path).tensors.items()
        }
        assert copy.st_size == path.stat().st_size > 30e9
        assert copy.st_blocks * 512 < 64 << 20
    assert not head.exists()
    assert hub.bytes_sent < path.stat().st_size / 1000


@pytest.mark.parametrize("first_bytes", [16, 1 << 20])
def test_heads_of_a_split_are_those_of_its_files(
    hub: StandIn, tmp_path: Path, first_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "FIRST_BYTES", first_bytes)
    write_tiny_model(tmp_path / "M-Q8_0.gguf", TinyShape(), parts=3)
    paths = split_paths(tmp_path / "M-Q8_0.gguf", 3)
    hub.files[REPO] = {path.name: path for path in paths}
    with model_heads(find(), ignore) as head:
        spec = read_spec(head)
    assert (spec.layers, spec.width, spec.context_length) == (2, 64, 512)
    asked = hub.asked("/content/")
    assert sum(request.range.startswith("bytes=0-") for request in asked) == 3
    assert (len(asked) > 3) == (first_bytes == 16)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>" * 100_000])
def test_what_is_no_model_is_refused_by_its_name_on_the_hub(hub: StandIn, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "M-Q8_0.gguf"
    path.write_bytes(content or b"\0")
    hub.files[REPO] = {path.name: path}
    with pytest.raises(ModelFileError, match=f"^{REPO}/M-Q8_0") as raised, model_heads(find(), ignore) as head:
        open_gguf(head)
    assert "numoe-heads" not in str(raised.value)


def test_whatever_is_refused_of_a_head_is_refused_by_that_name(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 1000)}
    with pytest.raises(UnsupportedModel, match=f"^{REPO}/M-Q8_0.gguf: of no use$"), model_heads(find(), ignore) as head:
        raise UnsupportedModel(f"{head}: of no use")


def test_a_signal_ends_the_reading_of_heads(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO], hub.stall = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 1000)}, 10

    def interrupt(phase: str, done: int, total: int) -> None:
        if hub.stalled.wait(10):
            raise KeyboardInterrupt

    found = find_model(read_name(REPO), ignore)
    with capture_logs() as told:
        with pytest.raises(KeyboardInterrupt), model_heads(found, interrupt):
            raise AssertionError("the head did not come")
        hub.ended.set()
        await_readers()
    assert told == []  # whoever left does not hear of a connection that breaks off afterwards
