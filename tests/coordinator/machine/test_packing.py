"""`numoe pack` writes all of a folder or says that it did not, whatever ends it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from numoe.coordinator.machine import packing
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.made_up.synthetic import write_synthetic_model
from numoe.model.made_up.synthetic_shape import PRESETS
from numoe.model.packed.manifest import MANIFEST_FILE, SUMS_FILE, UNFINISHED_FILE, read_manifest
from numoe.protos.errors import ModelFileError, ServiceError, SetupError
from tests.coordinator.commands.numoe_process import NUMOE, numoe
from tests.packed_model import pack_here, write_here
from tests.system.serve_process import wait_until
from tests.tiny_model import TinyShape, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, TinyShape())
    return path


def test_the_command_writes_what_packing_within_this_process_does(model: Path, tmp_path: Path) -> None:
    done = numoe("pack", str(model), "-o", str(tmp_path / "new" / "packed"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/new/packed\n"
    expected = pack_here(model, tmp_path / "here")
    made = {path.name: path.read_bytes() for path in (tmp_path / "new" / "packed").iterdir()}
    assert made == {path.name: path.read_bytes() for path in expected.iterdir()}
    assert UNFINISHED_FILE not in made
    checked = subprocess.run(["sha256sum", "-c", SUMS_FILE], cwd=tmp_path / "new" / "packed", check=False)
    assert checked.returncode == 0


def test_progress_is_told_in_bytes_up_to_all(model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    packing.pack_model(model, tmp_path / "packed", lambda *said: told.append(said))
    panels = sum(path.stat().st_size for path in (tmp_path / "packed").glob("*.panels"))
    assert told[0] == ("packing", 0, panels)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert 0 < told[-1][1] <= panels


def refused(model: Path, folder: Path) -> str:
    before = sorted(folder.iterdir()) if folder.is_dir() else None
    with pytest.raises(SetupError) as caught:
        packing.pack_model(model, folder, lambda phase, done, total: None)
    assert (sorted(folder.iterdir()) if folder.is_dir() else None) == before
    return str(caught.value)


def test_what_is_there_already_is_not_written_over(model: Path, tmp_path: Path) -> None:
    folder = pack_here(model, tmp_path / "packed")
    assert f"{folder} holds a packed model already: serve it with --packed" in refused(model, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    assert "holds 1 files that are no unfinished packed model, letter.txt among" in refused(model, tmp_path / "mine")
    (tmp_path / "file").touch()
    assert "is no folder: name a new or empty one" in refused(model, tmp_path / "file")
    assert "cannot be written: " in refused(model, tmp_path / "file" / "packed")


def test_too_little_disk_is_said_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "packing takes 0.0 GiB of disk, 0.0 GiB are free in" in refused(model, tmp_path / "packed")


def test_an_empty_folder_is_taken_and_one_that_was_not_finished_begun_anew(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    for name in (UNFINISHED_FILE, "layer-000.panels", "layer-007.panels", MANIFEST_FILE):
        (folder / name).write_text("what was left")
    pack_here(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in pack_here(model, tmp_path / "other").iterdir()
    }


def test_a_folder_that_is_being_written_is_left_alone(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "layer-000.panels").touch()
    with (folder / UNFINISHED_FILE).open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        assert "is being written by another `numoe pack`" in refused(model, folder)


def fail(spec: ModelSpec, folder: Path, total: int, progress: object) -> None:
    write_here(spec, folder, total, lambda phase, done, total: None)
    raise KeyboardInterrupt


@pytest.mark.parametrize("there", [False, True], ids=["new", "there before"])
def test_nothing_is_left_of_what_was_ended_early(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(packing, "_write_panels", fail)
    if there:
        (tmp_path / "packed").mkdir()
    with pytest.raises(KeyboardInterrupt):
        packing.pack_model(model, tmp_path / "packed", lambda phase, done, total: None)
    assert list(tmp_path.rglob("*")) == ([tmp_path / "packed"] if there else [])


def test_weights_that_are_no_numbers_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copy(model, tmp_path / "broken.gguf"))
    for name in ("blk.1.ffn_up_exps.weight", "blk.0.attn_norm.weight"):
        tensor = open_gguf(broken).tensors[name]
        with broken.open("r+b") as file:
            file.seek(tensor.offset + 4 * 5)
            kept = file.read(4)
            file.seek(tensor.offset + 4 * 5)
            file.write(np.float32(np.nan).tobytes())
        done = numoe("pack", str(broken), "-o", str(tmp_path / "packed"))
        assert done.returncode == 2
        assert f"{name}, " in done.stderr
        assert "holds a weight that is infinite or no number" in done.stderr
        assert not (tmp_path / "packed").exists()
        with broken.open("r+b") as file:
            file.seek(tensor.offset + 4 * 5)
            file.write(kept)


def first_bytes(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until panels are written."""
    wait_until(lambda: process.poll() is not None or any(one.stat().st_size for one in folder.glob("layer-*.panels")))
    assert process.poll() is None, process.communicate()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "hole.gguf"
    shape = replace(PRESETS["qwen3-30b-a3b"], layers=4)
    write_synthetic_model(path, shape, 0, header_only=True)  # 3 GB of zeros, which take seconds to pack
    return path


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_nothing_that_is_taken_for_whole(large: Path, tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "packed"
    command = [NUMOE, "pack", str(large), "-o", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first_bytes(folder, process)
    children = psutil.Process(process.pid).children()
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    psutil.wait_procs(children)
    if how == signal.SIGINT:
        assert not folder.exists()
        return
    assert (folder / UNFINISHED_FILE).exists()
    with pytest.raises(ModelFileError, match=f"{folder}: packing it was not finished") as caught:
        read_manifest(folder)
    assert caught.value.reason == "packed-unfinished"


def test_a_process_that_dies_is_an_error_of_ours(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "python_command", lambda module: ["/bin/sh", "-c", "kill -9 $$"])
    with pytest.raises(ServiceError, match="packing failed: its process ended with -9 and no word"):
        packing.pack_model(model, tmp_path / "packed", lambda phase, done, total: None)
    assert not (tmp_path / "packed").exists()
    assert os.listdir(tmp_path) == []
