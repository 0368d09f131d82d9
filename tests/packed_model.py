"""Folders as `numoe pack` writes them, written within this process: a process that packs takes seconds to start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from numoe.coordinator.machine import packing
from numoe.coordinator.progress import LoadProgress
from numoe.model.architectures.spec import ModelSpec
from numoe.worker.packing.writer import write_panels


def write_here(spec: ModelSpec, folder: Path, total: int, progress: LoadProgress) -> None:
    """What the process that packs does."""
    done = 0

    def report(size: int) -> None:
        nonlocal done
        done += size
        progress("packing", done, total)

    write_panels(spec, folder, 2, report)


def pack_here(model: Path, folder: Path) -> Path:
    """Pack a model; returns the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_write_panels", write_here)
        packing.pack_model(model, folder, lambda phase, done, total: None)
    return folder


def flip(path: Path, place: int) -> None:
    """Change one bit of a byte."""
    with path.open("r+b") as file:
        file.seek(place)
        [found] = file.read(1)
        file.seek(place)
        file.write(bytes([found ^ 1 << place % 8]))


def copies(folder: Path, target: Path) -> Iterator[Path]:
    """Folder after folder that a test may damage, each whole at first."""
    while True:
        shutil.rmtree(target, ignore_errors=True)
        yield Path(shutil.copytree(folder, target))
