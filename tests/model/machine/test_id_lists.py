"""Lists of CPUs and nodes in the kernel's form are read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.model.machine.id_lists import format_id_list, parse_id_list


@given(st.sets(st.integers(0, 300)))
def test_id_lists_are_read_as_they_are_written(ids: set[int]) -> None:
    assert parse_id_list(format_id_list(ids)) == tuple(sorted(ids))


@pytest.mark.parametrize(
    ("text", "ids"),
    [("3", (3,)), ("0-3,8\n", (0, 1, 2, 3, 8)), ("2,0", (0, 2)), ("5-5,64-66", (5, 64, 65, 66)), ("\n", ())],
)
def test_lists_are_read_as_the_kernel_writes_them(text: str, ids: tuple[int, ...]) -> None:
    assert parse_id_list(text) == ids


@pytest.mark.parametrize(
    "text", ["0-9999999999", "7,131072", "0-3,5-199999", "9-3", "x", "1-", "-1", "1-2-3", "9" * 5000]
)
def test_what_the_kernel_would_not_write_is_refused_before_it_is_built(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|invalid|Exceeds"):
        parse_id_list(text)


def test_ids_are_bound_by_what_there_is() -> None:
    assert parse_id_list("0-2,7", below=8) == (0, 1, 2, 7)
    with pytest.raises(ValueError, match="found 0-8, expected numbers below 8"):
        parse_id_list("0-8", below=8)


@pytest.mark.parametrize(("ids", "text"), [((), ""), ((3,), "3"), ((0, 1), "0-1"), ((2, 0, 1, 8, 8), "0-2,8")])
def test_id_lists_contract_runs(ids: tuple[int, ...], text: str) -> None:
    assert format_id_list(ids) == text
