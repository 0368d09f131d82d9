"""Split models are opened by their first part, and only whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from numoe.model.gguf.model_file import open_gguf
from numoe.protos.errors import ModelFileError
from tests.model.gguf.gguf_bytes import I32, STRING, U16, array, array_key, gguf, key, tensor, write

PARTS = 3


def part(number: int, count: int = PARTS, tensors: int = PARTS, name: str = "") -> bytes:
    keys = [key("split.no", U16, number), key("split.count", U16, count), key("split.tensors.count", I32, tensors)]
    keys += [key("general.name", STRING, "split")] if number == 0 else []
    return gguf(keys, [tensor(name or f"t{number}", (8,))], bytes([number]) * 32)


def with_keys(number: int, *keys: bytes, version: int = 3, count: int = PARTS) -> bytes:
    """A part that has more keys."""
    split = [key("split.no", U16, number), key("split.count", U16, count)]
    return gguf([*split, *keys], [tensor(f"t{number}", (8,))], bytes(32), version=version)


COUNT = key("split.tensors.count", I32, PARTS)


def split_name(number: int, count: int = PARTS) -> str:
    return f"model-{number:05d}-of-{count:05d}.gguf"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    for number in range(PARTS):
        write(tmp_path, part(number), split_name(number + 1))
    return tmp_path / split_name(1)


def test_the_parts_are_followed_from_the_first(first: Path) -> None:
    file = open_gguf(first)
    assert [path.name for path in file.parts] == [split_name(number) for number in (1, 2, 3)]
    assert file.metadata["general.name"] == "split"
    for number, info in enumerate(file.tensors.values()):
        content = info.path.read_bytes()
        assert content[info.offset : info.offset + info.bytes] == bytes([number]) * 32


def test_the_first_part_may_hold_no_tensors(first: Path) -> None:
    keys = [key("split.no", U16, 0), key("split.count", U16, PARTS), key("split.tensors.count", I32, PARTS - 1)]
    first.write_bytes(gguf(keys))
    for number in (1, 2):
        first.with_name(split_name(number + 1)).write_bytes(part(number, tensors=PARTS - 1))
    assert list(open_gguf(first).tensors) == ["t1", "t2"]


@pytest.mark.parametrize("name", ["model.gguf", split_name(1, 1)])
def test_a_model_split_into_one_part_is_whole(tmp_path: Path, name: str) -> None:
    assert len(open_gguf(write(tmp_path, part(0, count=1, tensors=1), name)).tensors) == 1
    assert len(open_gguf(write(tmp_path, gguf([], [tensor("t", (8,))], bytes(32)), name)).tensors) == 1


def replaced(number: int, content: bytes) -> Callable[[Path], Path]:
    """Overwrites one part, counted from 1, and opens the first."""

    def edit(first: Path) -> Path:
        first.with_name(split_name(number)).write_bytes(content)
        return first

    return edit


def renamed(name: str) -> Callable[[Path], Path]:
    return lambda first: first.rename(first.with_name(name))


def without(number: int) -> Callable[[Path], Path]:
    def remove(first: Path) -> Path:
        first.with_name(split_name(number)).unlink()
        return first

    return remove


def _directory_as_part(first: Path) -> Path:
    without(2)(first).with_name(split_name(2)).mkdir()
    return first


def _second_twice(first: Path) -> Path:
    shutil.copy(first.with_name(split_name(2)), first.with_name(split_name(3)))
    return first


def _too_few_tensors(first: Path) -> Path:
    for number in range(PARTS):
        first.with_name(split_name(number + 1)).write_bytes(part(number, tensors=PARTS + 1))
    return first


def _words(first: Path, words: list[str]) -> Path:
    first.write_bytes(
        with_keys(0, COUNT, array_key("words", array(STRING, ["a", "b"])), array_key("n", array(I32, [1])))
    )
    second = with_keys(1, array_key("words", array(STRING, words)), array_key("n", array(I32, [1])))
    first.with_name(split_name(2)).write_bytes(second)
    return first


def _words_that_differ(first: Path) -> Path:
    return _words(first, ["a", "c"])


def test_what_later_parts_say_again_may_stand_there(first: Path) -> None:
    assert len(open_gguf(_words(first, ["a", "b"])).tensors) == PARTS


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "the second part opened": (lambda first: first.with_name(split_name(2)), "split-not-first"),
    "part zero opened": (renamed(split_name(0)), "split-not-first"),
    "the last part missing": (without(3), "split-part-missing"),
    "a part that is a directory": (_directory_as_part, "not-a-file"),
    "a part that is empty": (replaced(3, b""), "empty"),
    "a part that is damaged": (replaced(2, part(1)[:50]), "truncated"),
    "a part with another number": (_second_twice, "split-number"),
    "a first part with another number": (replaced(1, part(1)), "split-number"),
    "a part of another split": (replaced(2, part(1, count=4)), "split-count"),
    "more parts than in the name": (replaced(1, part(0, count=4)), "split-count"),
    "a name with parts but no key": (replaced(1, gguf([], [tensor("t", (8,))], bytes(32))), "split-count"),
    "more parts than allowed": (replaced(1, part(0, count=65535)), "split-count"),
    "too few tensors": (_too_few_tensors, "split-tensors"),
    "another count of tensors in the first part": (replaced(1, part(0, tensors=4)), "split-mixed"),
    "no count of tensors": (
        replaced(1, gguf([key("split.no", U16, 0), key("split.count", U16, 3)], [tensor("t0", (8,))], bytes(32))),
        "split-tensors",
    ),
    "another count of tensors in a later part": (
        replaced(2, with_keys(1, key("split.tensors.count", I32, PARTS + 1))),
        "split-mixed",
    ),
    "another model's name in a later part": (
        replaced(2, with_keys(1, key("general.name", STRING, "x"))),
        "split-mixed",
    ),
    "another version in a later part": (replaced(3, with_keys(2, version=2)), "split-mixed"),
    "an architecture that the first part lacks": (
        replaced(3, with_keys(2, key("general.architecture", STRING, "llama"))),
        "split-mixed",
    ),
    "other words in a later part": (_words_that_differ, "split-mixed"),
    "a list where the first part has a text": (
        replaced(2, with_keys(1, array_key("general.name", array(STRING, ["split"])))),
        "split-mixed",
    ),
    "a tensor in two parts": (replaced(3, part(2, name="t0")), "tensor-duplicate"),
    "a number that is a string": (replaced(1, gguf([key("split.count", STRING, "3")])), "split-key-type"),
    "a negative count": (replaced(1, gguf([key("split.count", I32, -1)])), "split-count"),
    "a name without its number": (renamed("model.gguf"), "split-name"),
    "a name with a short number": (renamed("model-0001-of-0003.gguf"), "split-name"),
}


@pytest.mark.parametrize(("edit", "reason"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_split_is_refused_by_name(first: Path, edit: Callable[[Path], Path], reason: str) -> None:
    opened = edit(first)
    with pytest.raises(ModelFileError) as refusal:
        open_gguf(opened)
    assert refusal.value.reason == reason


def test_the_refusal_names_the_part_to_open(first: Path) -> None:
    with pytest.raises(ModelFileError, match=split_name(1)):
        open_gguf(first.with_name(split_name(3)))


def test_the_refusal_names_the_missing_part(first: Path) -> None:
    with pytest.raises(ModelFileError, match=split_name(2)):
        open_gguf(without(2)(first))
