"""Lists of numbers as llama-bench's users write them."""

from __future__ import annotations

import pytest

from numoe.coordinator.commands.measuring.numbers import read_numbers, read_pairs
from numoe.protos.errors import SetupError


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["512"], (512,)),
        (["512,1024", "2048"], (512, 1024, 2048)),
        (["0-4096+1024"], (0, 1024, 2048, 3072, 4096)),
        (["1-32*2"], (1, 2, 4, 8, 16, 32)),
        (["1-3"], (1, 2, 3)),
        (["7-8+5, 7"], (7,)),
    ],
)
def test_lists_and_ranges_are_read(texts: list[str], numbers: tuple[int, ...]) -> None:
    assert read_numbers("-p", texts) == numbers


@pytest.mark.parametrize(
    "text", ["", "a", "1,,2", "-1", "1.5", "3-1", "0-8*2", "1-8*1", "1-8+0", "1-999999999", "9" * 12, "1-2-3"]
)
def test_what_is_no_list_is_refused_by_name(text: str) -> None:
    with pytest.raises(SetupError, match=r"^-p ") as raised:
        read_numbers("-p", [text])
    assert "expected" in str(raised.value)


def test_pairs_are_read() -> None:
    assert read_pairs("-pg", ["512,128", " 64 , 16"]) == ((512, 128), (64, 16))
    for text in ("512", "1,2,3", "a,b", "1,-2"):
        with pytest.raises(SetupError, match=r"^-pg is .*512,128"):
            read_pairs("-pg", [text])


def test_the_least_is_kept_to() -> None:
    with pytest.raises(SetupError, match="--streams is '0', expected at least 1"):
        read_numbers("--streams", ["0"], least=1)
