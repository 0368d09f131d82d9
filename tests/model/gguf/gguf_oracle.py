"""Holds what is read of a GGUF file against the gguf package's reader."""

from __future__ import annotations

from pathlib import Path

import gguf as oracle
import numpy as np

from numoe.model.gguf.part import read_part
from numoe.model.gguf.values import Strings, Value


def assert_read_alike(path: Path) -> None:
    """Fails if our reader and the package's find different keys, values or tensors in the file, or one refuses it."""
    ours, theirs = read_part(path), oracle.GGUFReader(path)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for name, value in ours.metadata.items():
        np.testing.assert_equal(plain(value), fields[name].contents(), err_msg=name)
    assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        shape = tuple(int(size) for size in other.shape[::-1])
        found = (mine.type.value, mine.shape, mine.offset, mine.bytes)
        assert found == (other.tensor_type.value, shape, other.data_offset, other.n_bytes), mine.name


def plain(value: Value) -> object:
    """The value in lists and Python's own types, arrays in arrays flattened as the package does."""
    if isinstance(value, Strings):
        return list(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
