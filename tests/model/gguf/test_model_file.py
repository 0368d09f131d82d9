"""Sound GGUF files are read as they are, and as the gguf package reads them."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf as oracle
import numpy as np
import pytest

from numoe.model.gguf.model_file import open_gguf
from numoe.model.gguf.tensors import BLOCKS, TensorType, row_bytes
from numoe.model.gguf.values import Strings
from numoe.protos.errors import ModelFileError
from tests.model.gguf.gguf_bytes import STRING, array, array_key, gguf, sound_file, tensor, write
from tests.model.gguf.gguf_oracle import assert_read_alike
from tests.tiny_model import TinyShape, split_paths, write_tiny_model


def test_every_value_type_is_read(tmp_path: Path) -> None:
    metadata = open_gguf(write(tmp_path, sound_file())).metadata
    scalars = {name: value for name, value in metadata.items() if isinstance(value, bool | int | float | str)}
    assert scalars == {
        "general.architecture": "llama",
        "general.alignment": 32,
        "number.0": 200,
        "number.1": -100,
        "number.2": 60000,
        "number.3": -30000,
        "number.4": 4000000000,
        "number.5": -2000000000,
        "number.10": 1 << 63,
        "number.11": -(1 << 62),
        "number.f32": 0.5,
        "number.f64": 1e300,
        "yes": True,
        "no": False,
    }
    assert isinstance(scalars["yes"], bool)
    assert not isinstance(scalars["number.0"], bool)


def test_every_array_type_is_read(tmp_path: Path) -> None:
    metadata = open_gguf(write(tmp_path, sound_file())).metadata
    assert list(_strings(metadata["words"])) == ["", "one", "zwölf", "\N{SNOWMAN}"]
    for kind, first in ((0, 200), (1, -100), (5, -2000000000), (10, 1 << 63)):
        numbers = metadata[f"numbers.{kind}"]
        assert isinstance(numbers, np.ndarray)
        assert numbers.tolist() == [first, 1, 0]
    bools = metadata["bools"]
    assert isinstance(bools, np.ndarray)
    assert bools.dtype == np.bool_
    nested = metadata["nested"]
    assert isinstance(nested, list)
    assert isinstance(nested[1], Strings)
    assert list(nested[1]) == ["a"]


def test_strings_are_a_sequence(tmp_path: Path) -> None:
    words = _strings(open_gguf(write(tmp_path, sound_file())).metadata["words"])
    assert len(words) == 4
    assert (words[1], words[-1], words[1:3]) == ("one", "\N{SNOWMAN}", ["one", "zwölf"])
    assert "zwölf" in words
    with pytest.raises(IndexError):
        words[4]
    with pytest.raises(IndexError):
        words[-5]


def test_a_string_that_is_not_utf8_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, gguf([array_key("words", array(STRING, ["good", b"\xff\xfe"]))]))
    words = _strings(open_gguf(path).metadata["words"])
    assert words[0] == "good"
    with pytest.raises(ModelFileError) as refusal:
        list(words)
    assert refusal.value.reason == "value-not-utf8"


def test_tensors_lie_where_the_directory_says(tmp_path: Path) -> None:
    path = write(tmp_path, sound_file())
    tensors = open_gguf(path).tensors
    content = path.read_bytes()
    first, second = tensors["first"], tensors["second"]
    assert (first.type, first.shape, first.bytes) == (TensorType.Q8_0, (2, 32), 68)
    assert content[first.offset : first.offset + first.bytes] == bytes(range(68))
    assert struct.unpack("<3f", content[second.offset : second.offset + second.bytes]) == (1, 2, 3)


def test_what_was_read_outlives_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, sound_file())
    file = open_gguf(path)
    path.write_bytes(b"")
    assert list(_strings(file.metadata["words"]))[1] == "one"


def test_the_paths_of_tensors_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, sound_file())
    monkeypatch.chdir(tmp_path)
    assert {tensor.path for tensor in open_gguf("model.gguf").tensors.values()} == {tmp_path / "model.gguf"}


def test_version_2_is_read_like_version_3(tmp_path: Path) -> None:
    content = gguf([], [tensor("t", (4,))], bytes(16), version=2)
    assert open_gguf(write(tmp_path, content)).version == 2


def test_tensors_may_stand_in_any_order(tmp_path: Path) -> None:
    content = gguf([], [tensor("late", (7,), 0, 32), tensor("early", (7,), 0, 0)], bytes(64))
    late, early = open_gguf(write(tmp_path, content)).tensors.values()
    assert late.offset - early.offset == 32


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    theirs = {kind.value: sizes for kind, sizes in oracle.GGML_QUANT_SIZES.items()}
    assert {int(kind): sizes for kind, sizes in BLOCKS.items()} == theirs
    assert set(BLOCKS) == set(TensorType)
    assert {kind.name: kind.value for kind in TensorType} == {
        kind.name: kind.value for kind in oracle.GGMLQuantizationType
    }


def test_a_row_takes_a_whole_number_of_blocks() -> None:
    assert row_bytes(TensorType.Q8_0, 4096) == 4352
    assert row_bytes(TensorType.Q4_K, 4096) == 2304


def test_a_file_without_nested_arrays_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    words = array_key("words", array(STRING, ["a", "zwölf", ""]))
    assert_read_alike(write(tmp_path, gguf([words], [tensor("t", (32, 3), 8)], bytes(102))))


@pytest.mark.parametrize("parts", [1, 3])
def test_what_the_gguf_package_writes_is_read_as_it_reads_it(tmp_path: Path, parts: int) -> None:
    write_tiny_model(tmp_path / "tiny.gguf", TinyShape(type=TensorType.Q8_0), parts=parts)
    for path in split_paths(tmp_path / "tiny.gguf", parts):
        assert_read_alike(path)


def _strings(value: object) -> Strings:
    assert isinstance(value, Strings)
    return value
