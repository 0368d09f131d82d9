"""Numba's cache files, each with a checksum: what is empty, cut off or otherwise damaged counts as not there.

Numba itself unpickles what it finds, so that a file which a loss of power left empty ends every later start. And it
knows a function by where its file lies and when that was changed: here the cache is named after what all files hold, so
that another clone, environment or image of the same sources compiles nothing anew.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

SUFFIXES = (".nbi", ".nbc")  # of the index of a function, and of what one of its signatures compiled to
_DIGEST_BYTES = 32


def seal(data: bytes) -> bytes:
    """Put its checksum before the data."""
    return hashlib.sha256(data).digest() + data


def unseal(sealed: bytes) -> bytes | None:
    """The data, or None where they are not what the checksum was made of."""
    data = sealed[_DIGEST_BYTES:]
    return data if data and hashlib.sha256(data).digest() == sealed[:_DIGEST_BYTES] else None


class CheckedCacheFile(caching.IndexDataCacheFile):
    """The files of one function."""

    def _load_index(self) -> dict[Any, str]:
        try:
            data = unseal(Path(self._index_path).read_bytes())
        except FileNotFoundError:
            return {}
        if data is None:
            return {}
        version, stamp, overloads = pickle.loads(data)
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        with self._open_for_write(self._index_path) as file:
            file.write(seal(self._dump((self._version, self._source_stamp, overloads))))

    def _load_data(self, name: str) -> Any:
        data = unseal(Path(self._data_path(name)).read_bytes())
        if data is None:
            raise OSError(f"{self._data_path(name)} is damaged")  # which Numba takes for: compile it again
        return pickle.loads(data)

    def _save_data(self, name: str, data: Any) -> None:
        with self._open_for_write(self._data_path(name)) as file:
            file.write(seal(self._dump(data)))


class ContentLocator(caching._CacheLocator):
    """Where functions are kept whose sources have named the cache: by their place among these."""

    sources: Path  # the folder of all

    def __init__(self, function: Any, file: Path) -> None:
        self._folder = Path(numba.config.CACHE_DIR) / file.parent.relative_to(self.sources)
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> ContentLocator | None:
        """None: its source is none of these."""
        file = Path(py_file).resolve()
        if not file.is_relative_to(cls.sources):
            return None
        found = cls(py_func, file)
        found.ensure_cache_path()
        return found

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return ""

    def get_disambiguator(self) -> str:
        return str(self._line)


def use_own_files(sources: Path) -> None:
    """Let all functions that are compiled from now on be kept in such files; `sources`: those that name the cache."""
    caching.IndexDataCacheFile = CheckedCacheFile
    ContentLocator.sources = sources.resolve()
    own = f"{ContentLocator.__module__}.{ContentLocator.__qualname__}"
    numba.config.CACHE_LOCATOR_CLASSES = f"{own},{caching.UserProvidedCacheLocator.__name__}"


def intact_files(folder: Path) -> set[str]:
    """The names of the files in a cache that are what was written, relative to it."""
    files = [path for path in folder.rglob("*") if path.suffix in SUFFIXES]
    return {str(path.relative_to(folder)) for path in files if unseal(path.read_bytes()) is not None}
