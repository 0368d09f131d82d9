"""What comes too often is left out and counted, each kind for itself."""

from __future__ import annotations

from numoe.coordinator.ration import Ration


def test_so_many_at_once_then_so_many_a_second_and_the_others_are_counted() -> None:
    now = [100.0]
    ration = Ration(burst=3, per_second=2.0, clock=lambda: now[0])
    assert [ration.take("a") for _ in range(5)] == [0, 0, 0, None, None]
    now[0] += 0.4
    assert ration.take("a") is None
    now[0] += 0.1
    assert [ration.take("a"), ration.take("a")] == [3, None]
    assert ration.take("b") == 0
    now[0] += 1000.0
    assert [ration.take("a") for _ in range(4)] == [1, 0, 0, None]


def test_the_fields_of_a_line_tell_only_what_there_is_to_tell() -> None:
    now = [0.0]
    ration = Ration(burst=1, per_second=1.0, clock=lambda: now[0])
    assert [ration.facts("a"), ration.facts("a")] == [{}, None]
    now[0] = 1.0
    assert ration.facts("a") == {"left_out": 1}
