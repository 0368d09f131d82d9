"""The file of keys: what is written can be read, and what makes no sense is refused without repeating a key."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from numoe.coordinator.access.key_file import Key, add_key, digest_of, read_keys
from numoe.coordinator.access.roles import Role
from numoe.protos.errors import SetupError

HASH = "sha256:" + "0" * 64
SECRET = "numoe-very-secret"


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_key_that_was_added_is_read_and_stands_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first = add_key(path, "chat", [Role.INFER], 4)
    second = add_key(path, "ops", [Role.OPERATE, Role.INFER], None)
    chat, ops = read_keys(path)
    assert chat == Key("chat", frozenset({Role.INFER}), digest_of(first), 4)
    assert ops == Key("ops", frozenset({Role.INFER, Role.OPERATE}), digest_of(second), None)
    assert first != second
    assert first not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_comments_blank_lines_and_a_last_line_without_an_end_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, f"# whose\n\na infer {HASH}  # of the page")
    add_key(path, "b", [Role.OBSERVE], None)
    assert [key.name for key in read_keys(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# a infer sha256\n", "holds no key"),
        (f"a infer {SECRET}", "line 1: the hash of a is none"),
        (f"\n{SECRET}", "line 2: found 1 words"),
        (f"a infer {HASH} 1 {SECRET}", "found 5 words"),
        (f"{SECRET}! infer {HASH}", "the name is none"),
        (f"a infer,{SECRET} {HASH}", "the roles of a"),
        (f"a open {HASH}", "the roles of a"),
        (f"a infer {HASH} {SECRET}", "the requests at once of a"),
        (f"a infer {HASH} 0", "the requests at once of a"),
        (f"a infer {HASH}\na infer {HASH.replace('0', '1')}", "line 2: the name of a"),
        (f"a infer {HASH}\nb infer {HASH}", "line 2: the hash of b"),
        ("\xff\n", "line 1"),
        ("x" * (1 << 20) + "x", "more than 1048576 bytes"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=said) as refused:
        read_keys(write(tmp_path, text))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path, f"a infer {HASH}\n", mode)
    for attempt in (lambda: read_keys(path), lambda: add_key(path, "b", [Role.INFER], None)):
        with pytest.raises(SetupError, match="chmod 600"):
            attempt()
    assert path.read_text() == f"a infer {HASH}\n"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys", 0o600)
    with pytest.raises(SetupError, match="keys is no file: expected one with a line for each key"):
        read_keys(tmp_path / "keys")


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="numoe keys add"):
        read_keys(tmp_path / "none")
    with pytest.raises(SetupError, match="cannot be written"):
        add_key(tmp_path / "none/keys", "a", [Role.INFER], None)


def test_keys_that_are_added_at_once_are_all_there_and_no_name_is_twice(tmp_path: Path) -> None:
    path = tmp_path / "keys"

    def attempt(number: int) -> bool:
        try:
            add_key(path, f"key{number % 10}", [Role.INFER], None)
        except SetupError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        added = sum(pool.map(attempt, range(20)))
    assert (added, len(read_keys(path))) == (10, 10)
