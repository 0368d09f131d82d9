"""The files that a shard is read from: each the one, and as it was, by which the model was planned."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.file_identity import FileIdentity
from numoe.protos.errors import ModelFileError


class Files:
    """Descriptors of files, each of which is the one that the model was planned by."""

    def __init__(self, expected: Iterable[FileIdentity]) -> None:
        self._expected = {identity.path: identity for identity in expected}
        self._open: dict[tuple[Path, int], int] = {}
        self._lock = Lock()

    def descriptor(self, path: Path, flags: int = 0) -> int:
        """A descriptor of a file with these flags, which is opened if it was not.

        Raises:
            ModelFileError: it is another file.
            OSError: it cannot be opened so.
        """
        with self._lock:
            if (path, flags) not in self._open:
                self._open[path, flags] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
                self._check(path, self._open[path, flags])
            return self._open[path, flags]

    def read(self, path: Path, offset: int, parts: Sequence[NDArray[np.uint8]]) -> None:
        """Fill arrays from a file, one behind the other; raises ModelFileError where the file ends first."""
        left: list[Any] = [part.data for part in parts if part.size]
        descriptor, place = self.descriptor(path), offset
        while left:
            got = os.preadv(descriptor, left, place)
            if got == 0:
                size = os.fstat(descriptor).st_size
                problem = f"{path} has {size} bytes, expected at least {offset + sum(part.size for part in parts)}"
                raise ModelFileError("truncated", f"{problem}: it shrank since it was opened; copy it again")
            place += got
            while left and got >= len(left[0]):
                got -= len(left.pop(0))
            if got:
                left[0] = left[0][got:]

    def check(self) -> None:
        """Raise ModelFileError: a file was written to since it was opened."""
        for (path, _), descriptor in self._open.items():
            self._check(path, descriptor)

    def _check(self, path: Path, descriptor: int) -> None:
        if path in self._expected:
            self._expected[path].check(descriptor)

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in self._open.values():
            os.close(descriptor)
