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


@pytest.mark.parametrize(("ids", "text"), [((), ""), ((3,), "3"), ((0, 1), "0-1"), ((2, 0, 1, 8, 8), "0-2,8")])
def test_id_lists_contract_runs(ids: tuple[int, ...], text: str) -> None:
    assert format_id_list(ids) == text
