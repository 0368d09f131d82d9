"""Packs a model into a folder: makes it, has a process write the panels, and says at the end that it is complete.

    nothing, or an empty folder --unfinished--> all files --SHA256SUMS--> complete --unfinished removed--> complete

The process that packs is one of ours, as the coordinator knows no kernels. Whatever ends the packing early, what was
written is removed, or, where not even that can be done, marked as unfinished: no reader takes it for whole.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from numoe.coordinator.machine.model_file import read_model
from numoe.coordinator.programs import last_line, open_errors, python_command
from numoe.coordinator.progress import LoadProgress
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import GgufFile, open_gguf
from numoe.model.gguf.part import metadata_alone
from numoe.model.packed.hashes import HASH_BYTES
from numoe.model.packed.manifest import (
    KIND,
    MANIFEST_FILE,
    METADATA_FILE,
    SUMMED,
    SUMS_FILE,
    UNFINISHED_FILE,
    VERSION,
    DirectoryEntry,
    Manifest,
    encode,
    entry_of,
    sums_of,
)
from numoe.model.packed.origin import Origin, origins_of
from numoe.model.packed.sections import VOCABULARY_FILE, file_bytes, sections_of
from numoe.model.planning.panels import PANEL_LAYOUT
from numoe.protos.errors import ServiceError, SetupError

EXIT_SETUP = 2  # of the packing process: its last line is for the operator
SUMS_PART = f"{SUMS_FILE}.part"
WRITTEN = (*SUMMED, SUMS_FILE, SUMS_PART, VOCABULARY_FILE)
LAYER_FILES = "layer-*.panels"
WEIGHTS_CHECKED = "all finite: looked at one by one, or by their scales, while they were packed"


def pack_model(model: Path, folder: Path, progress: LoadProgress) -> int:
    """Pack a model into a folder; returns how many bytes that takes.

    Raises:
        SetupError: the model cannot be served, or the folder not be written.
        ServiceError: the process that packs failed.
    """
    spec, _, template = read_model(model)  # what `numoe serve` would refuse is refused before anything is written
    if template is not None:
        template.close()
    file = open_gguf(model)
    sections = sections_of(spec)
    panels = sum(file_bytes(sections).values())
    metadata, manifest = metadata_alone(file.parts[0]), encode(_manifest(spec, file, origins_of(file)))
    size = panels + len(metadata) + len(manifest) + HASH_BYTES * sum(section.hashes for section in sections)
    try:
        with _unfinished(folder):
            _check_room(folder, size)
            _write_panels(spec, folder, panels, progress)
            for name, data in ((METADATA_FILE, metadata), (MANIFEST_FILE, manifest)):
                _write_whole(folder / name, data)
            sums = sums_of({name: (folder / name).read_bytes() for name in SUMMED})
            _write_whole(folder / SUMS_PART, sums)
            (folder / SUMS_PART).replace(folder / SUMS_FILE)
            _sync(folder)
    except OSError as error:
        raise SetupError(f"{folder} cannot be written: {error.strerror or error}") from error
    return size


def _manifest(spec: ModelSpec, file: GgufFile, origins: tuple[Origin, ...]) -> Manifest:
    tensors = (DirectoryEntry(one.name, one.type.name, one.shape) for one in file.tensors.values())
    return Manifest(
        kind=KIND,
        version=VERSION,
        layout=PANEL_LAYOUT,
        numoe=version("numoe"),
        model=spec.name,
        weights=WEIGHTS_CHECKED,
        packed_from=origins,
        tensors=tuple(tensors),
        sections=tuple(map(entry_of, sections_of(spec))),
    )


@contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """A folder that is marked as unfinished for the length of a block, and removed if that does not end well.

    Raises:
        SetupError: it holds something, or is being written by somebody else.
        OSError: it cannot be made.
    """
    made = not folder.exists()
    _refuse_full(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark = os.open(folder / UNFINISHED_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(f"{folder} is being written by another `numoe pack`: wait for it, or end it") from error
        try:
            _remove(folder)  # what one that was killed has left
            yield
        except BaseException:
            _remove(folder)
            (folder / UNFINISHED_FILE).unlink(missing_ok=True)
            if made:
                with suppress(OSError):
                    folder.rmdir()
            raise
        (folder / UNFINISHED_FILE).unlink()
    finally:
        os.close(mark)


def _refuse_full(folder: Path) -> None:
    """Raise SetupError unless there is nothing, an empty folder, or one whose packing was not finished."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SetupError(f"{folder} is no folder: name a new or empty one to pack into")
    names = {path.name for path in folder.iterdir()}
    if SUMS_FILE in names:
        raise SetupError(f"{folder} holds a packed model already: serve it with --packed, or remove it first")
    if names and UNFINISHED_FILE not in names:
        found = f"{len(names)} files that are no unfinished packed model, {min(names)} among them"
        raise SetupError(f"{folder} holds {found}: name a new or empty folder to pack into")


def _remove(folder: Path) -> None:
    for path in (*(folder / name for name in WRITTEN), *folder.glob(LAYER_FILES)):
        path.unlink(missing_ok=True)


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        room = f"packing takes {size / 2**30:.1f} GiB of disk, {free / 2**30:.1f} GiB are free in {folder}"
        raise SetupError(f"{room}: free some, or name a folder on another disk")


def _write_panels(spec: ModelSpec, folder: Path, total: int, progress: LoadProgress) -> None:
    """Have a process of its own write them; it ends with this one, and with this call."""
    progress("packing", 0, total)
    with open_errors() as errors:
        process = subprocess.Popen(
            python_command("numoe.worker.packing.process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,  # Ctrl-C is for this process, which then ends it
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with suppress(BrokenPipeError):  # it ended before it had read all: what it says tells why
                    process.stdin.write(pickle.dumps((spec, folder.absolute())))
                    process.stdin.flush()
                for line in process.stdout:
                    progress("packing", int(line), total)
                code = process.wait()
            finally:
                process.kill()
                with suppress(BrokenPipeError):
                    process.stdin.close()
        if code:
            said = last_line(errors) or f"its process ended with {code} and no word"
            raise SetupError(said) if code == EXIT_SETUP else ServiceError(f"packing failed: {said}")


def _write_whole(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
