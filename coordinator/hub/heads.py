"""Reads the heads of GGUF files on a hub by ranges: what they say of a model, without its weights.

Each file is made anew in a temporary folder: its head, then a hole of the size of its tensors. To the reader of GGUF
files it is the file, and all offsets are checked; it takes the disk space of the head.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from numoe.coordinator.hub.choosing import HubFile
from numoe.coordinator.hub.reading import Source, read_bytes
from numoe.coordinator.hub.waiting import Stop, call_all
from numoe.model.gguf.part import read_part
from numoe.model.gguf.reader import METADATA_BYTES
from numoe.protos.errors import ModelFileError, SetupError

FIRST_BYTES = 1 << 20  # a part after the first fits in; the head of the first takes 6 MB for Qwen3's vocabulary
GROWTH = 8
AT_ONCE = 8  # models have up to 150 parts, and each takes two round trips


@contextmanager
def read_heads(source: Source, files: Sequence[HubFile], poll: Callable[[], None]) -> Iterator[Path]:
    """The first of `files`, as far as its head, with the others beside it, until the context ends.

    `poll` is called ten times a second. Raises SetupError, HubUnreachable and whatever `poll` raises; a SetupError
    that is raised in the context names the hub's files.
    """
    with tempfile.TemporaryDirectory(prefix="numoe-heads-", ignore_cleanup_errors=True) as folder:
        places = [Path(folder) / file.name for file in files]

        stop = Stop()
        works = [partial(_copy_head, source, file, place, stop) for file, place in zip(files, places, strict=True)]
        try:
            call_all(works, AT_ONCE, poll)
            yield places[0]
        except SetupError as error:
            error.args = (str(error).replace(folder, source.wanted.repo),)
            raise
        finally:
            stop.set()


def _copy_head(source: Source, file: HubFile, place: Path, stop: Stop) -> None:
    """Write the file with its head and true size."""
    wanted = FIRST_BYTES
    with place.open("wb") as copy:
        while not stop.is_set():
            end = min(wanted, file.bytes)
            read_bytes(source, file, copy.tell(), end, copy.write, stop)
            copy.flush()
            if end == file.bytes or end >= METADATA_BYTES or _whole(place):
                break
            wanted *= GROWTH
        copy.truncate(file.bytes)


def _whole(place: Path) -> bool:
    """Whether the head ends in what is there."""
    try:
        read_part(place)
    except ModelFileError as error:
        return error.reason != "truncated"  # anything else would be found in the whole file, too, or is about tensors
    return True
