"""Foreign text steers no terminal, breaks no line, and stays what it is otherwise."""

from __future__ import annotations

import re
import sys

import pytest

from numoe.protos.foreign_text import harmless, one_line

FAMILY = "\U0001f469\u200d\U0001f52c"
STEERING = "\x1b\x07\x00\x7f\x9b\r\n\t\x0b\x0c\x85\u2028\u2029\u202a\u202e\u2066\u2069\ud800"


def test_foreign_text_cannot_steer_a_terminal_or_turn_its_order_around() -> None:
    assert harmless(f"a\x1b]0;owned\x07b\nc\td \u202egnp.exe {FAMILY}", kept="\n") == f"a]0;ownedb\ncd gnp.exe {FAMILY}"


@pytest.mark.parametrize("character", STEERING, ids=ascii)
def test_each_such_character_is_told_in_a_line(character: str) -> None:
    assert one_line(f"a{character}b") == "a?b"


def test_no_other_character_is_touched() -> None:
    """Of all that there are: what is left is one line everywhere, and can be written."""
    kept = [c for c in map(chr, range(sys.maxunicode + 1)) if harmless(c)]
    assert not set(kept) & set(STEERING)
    assert len("".join(kept).splitlines()) == 1
    "".join(kept).encode()
    assert {" ", "\u00a0", "\u3000", "\u200d", "\u200e", "\ue000", "\U0001faff"} < set(kept)
    assert not re.search("[\x00-\x1f\x7f-\x9f]", "".join(kept))


def test_a_long_text_loses_its_middle() -> None:
    assert one_line("x" * 400) == "x" * 400
    assert one_line("a" * 500 + "b" * 500, 10) == "aaaaa ... bbbbb"
