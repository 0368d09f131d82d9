"""Reads the keys of a GGUF file that belong to one architecture, and checks their types and ranges."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from numoe.model.gguf.values import Value, describe_value
from numoe.protos.errors import ModelFileError, UnsupportedModel
from numoe.protos.foreign_text import one_line


class Keys:
    """The metadata under the prefix of one architecture, e.g. "llama.".

    Faults are raised as ModelFileError or UnsupportedModel and name the key, what was found and what was expected.
    """

    __slots__ = ("_metadata", "_path", "_prefix")

    def __init__(self, path: Path, metadata: Mapping[str, Value], prefix: str) -> None:
        self._path = path
        self._metadata = metadata
        self._prefix = prefix

    def integer(self, key: str, high: int, default: int | None = None, low: int = 1) -> int:
        """A whole number in low..high; a list with one entry per layer is taken if all entries are equal."""
        value = self._find(key, default)
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and len(value):
            if (value != value[0]).any():
                self.refuse(f"{self._prefix}.{key} differs between layers, from {value.min()} to {value.max()}")
            value = int(value[0])
        if isinstance(value, bool) or not isinstance(value, int):
            self._fail("key-type", f"{self._prefix}.{key} must be a whole number")
        if not low <= value <= high:
            self._fail("hyper-parameter", f"{self._prefix}.{key} is {value}, expected {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number in low..high."""
        value = self._find(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail("key-type", f"{self._prefix}.{key} must be a number")
        if not low <= value <= high:  # refuses NaN as well
            self._fail("hyper-parameter", f"{self._prefix}.{key} is {value}, expected {low:g} to {high:g}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._find(key, default)
        if not isinstance(value, str):
            self._fail("key-type", f"{self._prefix}.{key} must be a string")
        return value

    def expect(self, key: str, allowed: tuple[object, ...]) -> None:
        """Refuse the file if the key asks for arithmetic that this version does not do."""
        value = self._metadata.get(f"{self._prefix}.{key}")
        if value is None:
            return
        if not isinstance(value, bool | int | float | str) or value not in allowed:
            found = describe_value(value)
            self.refuse(f"{self._prefix}.{key} is {found}, this version runs {' or '.join(map(str, allowed))} only")

    def refuse_unknown(self, known: Container[str]) -> None:
        """Refuse the file if it has a key that is not in `known`: what it asks for may change the answers."""
        own = [key.removeprefix(f"{self._prefix}.") for key in self._metadata if key.startswith(f"{self._prefix}.")]
        for key in own:
            if key not in known:
                found = (
                    f"{self._prefix}.{one_line(key, 60)} = {describe_value(self._metadata[f'{self._prefix}.{key}'])}"
                )
                self.refuse(f"this version does not know the key {found}, which may change the arithmetic")

    def contradiction(self, message: str) -> NoReturn:
        """Refuse the file as damaged, because its keys contradict each other. Raises ModelFileError."""
        self._fail("hyper-parameter", message)

    def refuse(self, message: str) -> NoReturn:
        """Refuse a sound file that this version cannot run. Raises UnsupportedModel."""
        raise UnsupportedModel(f"{self._path}: {message}")

    def _find(self, key: str, default: float | str | None) -> Value:
        value = self._metadata.get(f"{self._prefix}.{key}", default)
        if value is None:
            self._fail("key-missing", f"the key {self._prefix}.{key} is missing")
        return value

    def _fail(self, reason: str, message: str) -> NoReturn:
        raise ModelFileError(reason, f"{self._path}: {message}; the file is damaged or was converted wrongly")
