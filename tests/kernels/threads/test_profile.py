"""What threads note of their time: all of it, in the right cells, and nothing where nobody asks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.threads import profile as words
from numoe.kernels.threads.profile import begin_profile, end_profile, enter, enter_layer
from numoe.kernels.threads.system_calls import clock_ns
from numoe.kernels.threads.team import Team, arrive, barrier, gather, release
from numoe.protos import profile as common
from tests.kernels.threads.teams import TeamWords

LAYERS, STEPS = 3, 20


@dataclass(frozen=True, slots=True)
class Notes:
    """The memory of one thread."""

    state: NDArray[np.int64] = field(default_factory=lambda: np.zeros(common.STATE_WORDS, np.int64))
    cells: NDArray[np.int64] = field(default_factory=lambda: np.zeros((LAYERS + 1, words.PHASES, 3), np.int64))
    events: NDArray[np.int64] = field(default_factory=lambda: np.zeros((64, common.EVENT_WORDS), np.int64))

    def __post_init__(self) -> None:
        self.state[words.CELLS // 8] = self.cells.ctypes.data
        self.state[words.EVENTS // 8] = self.events.ctypes.data
        self.state[words.END // 8] = self.events.ctypes.data + self.events.nbytes


@kernel
def _run(team: Team, level: int, steps: int, layers: int) -> tuple[int, int]:
    """Steps of a barrier, some serial work and a gather in each layer; returns when the first began, the last ended."""
    first = clock_ns()
    began = first
    for _ in range(steps):
        began = clock_ns()
        begin_profile(team.profile, level, began)
        for layer in range(layers):
            enter_layer(team.profile, layer)
            enter(team.profile, words.QKV)
            barrier(team)
            enter(team.profile, words.CHOOSE)
            if arrive(team):
                release(team)
            enter(team.profile, words.ATTEND)
            gather(team)
        end_profile(team.profile, began)
    return first, clock_ns()


def run(teams: int, threads: int, level: int) -> tuple[list[Notes], list[tuple[int, int]]]:
    """What each thread noted, and between which moments it ran."""
    notes = [Notes() for _ in range(teams * threads)]
    all_words = TeamWords(teams)

    def of(number: int) -> tuple[int, int]:
        worker, thread = divmod(number, threads)
        team = all_words.team(worker, thread, threads, profile=notes[number].state.ctypes.data)
        first, last = _run(team, level, STEPS, LAYERS)
        return int(first), int(last)

    with all_words.waiting() as pool:
        return notes, list(pool.map(of, range(teams * threads)))


def test_phases_and_words_are_those_that_the_coordinator_knows() -> None:
    names = [name.upper() for name in common.PHASES]
    assert [getattr(words, name) for name in names] == list(range(words.PHASES))
    assert sorted(phase for group in common.GROUPS.values() for phase in group) == sorted(common.PHASES)
    assert (8 * common.STATE_WORDS, 8 * common.EVENT_WORDS) == (words.STATE_BYTES, words.EVENT_BYTES)
    for name in ("STEPS", "INSIDE", "NOTED"):
        assert 8 * getattr(common, name) == getattr(words, name)
    assert words.END < 8 * common.THREAD_ID < words.STATE_BYTES
    assert 8 * common.BEATS == words.BEATS
    assert common.TIME_LINE == words.TIME_LINE


@pytest.mark.parametrize(("teams", "threads"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_every_nanosecond_inside_steps_is_in_a_cell(teams: int, threads: int) -> None:
    notes, ran = run(teams, threads, common.TIME_LINE)
    for note, (first, last) in zip(notes, ran, strict=True):
        assert note.state[common.STEPS] == STEPS
        assert (note.cells >= 0).all()
        since = note.state[words.SINCE // 8]  # the end of the last step
        assert note.cells.sum() == note.state[common.INSIDE]
        assert note.cells.sum() <= since - first <= last - first
        line = note.events[: note.state[common.NOTED]]
        assert line[1:, 1].tolist() == line[:-1, 4].tolist()  # one begins where the one before ended
        assert (np.diff(line[:, 1:], axis=1) >= 0).all()
        assert line[-1, 4] <= since
        phases = [words.QKV, words.CHOOSE, words.ATTEND]
        assert line[:, 0].tolist() == [words.PHASES * layer + phase for layer in range(LAYERS) for phase in phases]


def test_one_steps_cells_are_the_sums_of_its_time_line() -> None:
    notes, _ = run(2, 2, common.TIME_LINE)
    for note in notes:
        line = note.events[: note.state[common.NOTED]]
        again = Notes()
        np.add.at(again.cells.reshape(-1, 3), line[:, 0], np.diff(line[:, 1:], axis=1))
        assert (again.cells <= note.cells).all()  # of the last step alone
        assert (again.cells > 0).sum() > 0


def test_only_a_gather_with_others_is_waiting_for_workers() -> None:
    alone, _ = run(1, 2, common.TIMES)
    for note in alone:
        assert note.cells[..., common.FOR_WORKERS].sum() == 0
    together, _ = run(2, 2, common.TIMES)
    for note in together:
        elsewhere = np.delete(note.cells, words.ATTEND, axis=1)
        assert elsewhere[..., common.FOR_WORKERS].sum() == 0
        assert note.state[common.NOTED] == 0  # no time line was asked for
    assert sum(int(note.cells[:, words.ATTEND, common.FOR_WORKERS].sum()) for note in together) > 0


def test_nothing_is_noted_where_nobody_asks() -> None:
    notes, _ = run(2, 2, common.NOTHING)
    for note in notes:
        assert not note.cells.any()
        assert not note.events.any()
        assert not note.state[[common.STEPS, common.INSIDE, common.NOTED]].any()


def test_a_time_line_that_is_full_loses_its_end_and_no_time() -> None:
    small = Notes(events=np.zeros((4, common.EVENT_WORDS), np.int64))
    team_words = TeamWords(1)
    team = team_words.team(0, 0, 1, profile=small.state.ctypes.data)
    _run(team, common.TIME_LINE, 1, LAYERS)
    assert small.state[common.NOTED] == 4
    assert small.cells.sum() == small.state[words.SINCE // 8] - small.events[0, 1]
