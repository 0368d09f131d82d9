"""What is written is what llama.cpp's own reader of GGUF files finds, and what is read here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf as oracle
import numpy as np
import pytest

from numoe.model.gguf.model_file import open_gguf
from numoe.model.gguf.tensors import TensorType
from numoe.model.gguf.write import NewTensor, write_gguf
from numoe.protos.errors import SetupError
from tests.model.gguf.gguf_oracle import assert_read_alike, plain

VALUES: dict[str, Any] = {
    "flag": True,
    "count": 2**32 - 1,
    "share": 0.25,
    "text": "grüße",
    "texts": ["a", "", "ß"],
    "numbers": [1, -2],
    "floats": [0.5, -1.0],
    "flags": [True, False],
    "array": np.array([3, -4], np.int32),
    "scores": np.array([1.5, -2.5], np.float32),
    "bits": np.array([False, True]),
}
FIRST, SECOND = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(34, dtype=np.uint8)
TENSORS = (
    NewTensor("first", TensorType.F32, (2, 3), lambda: [FIRST[:1], FIRST[1:]]),
    NewTensor("second", TensorType.Q8_0, (1, 32), lambda: [SECOND]),
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "a b.gguf"
    write_gguf(path, "qwen3moe", VALUES, TENSORS)
    return path


def test_the_oracle_reads_every_kind_of_value_and_all_tensors(written: Path) -> None:
    assert_read_alike(written)
    found = open_gguf(written).metadata
    expected = {"general.architecture": "qwen3moe", **VALUES}
    assert {name: plain(value) for name, value in found.items()} == {
        name: plain(value) for name, value in expected.items()
    }


def test_values_have_the_types_that_the_oracle_gives_them(written: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.gguf"
    writer = oracle.GGUFWriter(theirs, "qwen3moe")
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for name, value in VALUES.items():
        adders.get(type(value), writer.add_array)(name, plain(value))  # type: ignore[operator]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    ours, expected = (oracle.GGUFReader(path).fields for path in (written, theirs))
    assert {name: ours[name].types for name in VALUES} == {name: expected[name].types for name in VALUES}


def test_what_is_read_here_lies_where_it_was_written(written: Path) -> None:
    first, second = open_gguf(written).tensors.values()
    data = written.read_bytes()
    assert data[first.offset : first.offset + first.bytes] == FIRST.tobytes()
    assert data[second.offset : second.offset + second.bytes] == SECOND.tobytes()
    assert second.offset % 32 == len(data) % 32 == 0


def test_a_header_alone_is_as_long_and_its_tensors_are_zeros(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "header.gguf"
    write_gguf(path, "qwen3moe", VALUES, TENSORS, header_only=True)
    whole, header = written.read_bytes(), path.read_bytes()
    start = next(iter(open_gguf(path).tensors.values())).offset
    assert (len(header), header[:start]) == (len(whole), whole[:start])
    assert not any(header[start:])


def test_a_value_that_gguf_has_not_is_refused_and_no_file_is_left(tmp_path: Path) -> None:
    for value in ([None], [1, "a"], 2**32, object()):
        with pytest.raises(SetupError, match=r"^key is .*, expected "):
            write_gguf(tmp_path / "no.gguf", "qwen3moe", {"key": value}, TENSORS)  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
