"""What is measured of waits is what is done in them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from numoe.kernels.threads.latency import pass_barriers, pass_word
from tests.kernels.numeric import address
from tests.kernels.threads.teams import TeamWords


def test_a_word_goes_to_and_fro_as_often_as_said() -> None:
    word = np.zeros(1, np.int32)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(pass_word, address(word), thread, 1 - thread, 7) for thread in (0, 1)]:
            done.result(60)
    assert word[0] == 0  # the second one gave it back last


def test_all_pieces_are_claimed_in_every_phase() -> None:
    words = TeamWords(1)
    with ThreadPoolExecutor(3) as pool:
        teams = [words.team(0, thread, 3, groups=2) for thread in range(3)]
        had = list(pool.map(lambda team: pass_barriers(team, 50, 11), teams))
    assert sum(had) == 50 * 11
    assert min(had) >= 50  # of half of them, each thread has its own
