"""Which hosts a service takes of those that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.coordinator.cluster.wanted_hosts import NotJoined, choose_hosts, parse_wanted, read_wanted
from numoe.protos.errors import SetupError

HERE, OTHERS = "10.0.0.1", ("10.0.0.2", "10.0.0.3")


def chosen(wanted: str, *, all_of_them: bool = True) -> tuple[str, ...]:
    return choose_hosts(read_wanted(wanted), HERE, OTHERS, all_of_them=all_of_them)


def test_all_hosts_some_of_them_or_those_that_are_named_are_taken(tmp_path: Path) -> None:
    named = tmp_path / "hosts"
    named.write_text("# ours\n10.0.0.1\n\n  10.0.0.3\n")
    assert chosen("auto") == ("10.0.0.2", "10.0.0.3")
    assert chosen("1") == ()
    assert chosen("2") == ("10.0.0.2",)
    assert chosen(str(named)) == ("10.0.0.3",)
    assert chosen("10.0.0.1") == ()
    assert chosen("10.0.0.3, 10.0.0.1,10.0.0.2") == ("10.0.0.3", "10.0.0.2")


def test_hosts_that_are_not_there_are_named_or_done_without(tmp_path: Path) -> None:
    with pytest.raises(NotJoined, match=r"3 are there: 10\.0\.0\.1, 10\.0\.0\.2, 10\.0\.0\.3"):
        chosen("4")
    named = tmp_path / "hosts"
    named.write_text("10.0.0.1\n10.0.0.9\n10.0.0.3")
    with pytest.raises(NotJoined, match=r"no node runs on 10\.0\.0\.9; found"):
        chosen(str(named))
    assert chosen(str(named), all_of_them=False) == ("10.0.0.3",)
    assert chosen("4", all_of_them=False) == OTHERS


def test_files_are_read_only_of_who_says_so_on_this_machine(tmp_path: Path) -> None:
    named = tmp_path / "hosts"
    named.write_text("10.0.0.1\nsecret\n")
    with pytest.raises(SetupError, match="expected auto, a number, or IP addresses") as refused:
        parse_wanted(str(named))
    assert "secret" not in str(refused.value)
    with pytest.raises(SetupError, match=r"--hosts is 10\.0\.0\.1,secret, expected"):
        read_wanted(str(named))


def test_what_names_no_hosts_and_hosts_without_this_one_are_refused() -> None:
    with pytest.raises(SetupError, match="--hosts is 0, expected 1 or more"):
        chosen("0")
    with pytest.raises(SetupError, match="expected auto, a number, addresses, or a file"):
        chosen("all")
    with pytest.raises(SetupError, match=r"names 10\.0\.0\.2, expected this host, 10\.0\.0\.1, among them"):
        chosen("10.0.0.2")
