"""Rates and columns are differences of samples; what was restarted began at zero."""

from __future__ import annotations

import numpy as np

from numoe.coordinator.operations.history import (
    HISTORY_SECONDS,
    LATELY_SECONDS,
    RECENT_SECONDS,
    SAMPLE_SECONDS,
    SampleRing,
    hits_change,
    worker_change,
)
from tests.coordinator.operations.samples import HITS, ZERO, sample


def test_a_window_begins_at_the_newest_sample_that_is_old_enough() -> None:
    ring = SampleRing()
    for number in range(10):
        ring.add(sample(SAMPLE_SECONDS * number))
    assert ring.before(RECENT_SECONDS, 45.0).at == 35.0
    assert ring.before(RECENT_SECONDS, 47.0).at == 35.0
    assert ring.before(RECENT_SECONDS, 50.0).at == 40.0
    assert ring.before(LATELY_SECONDS, 50.0).at == 0.0  # all that there is


def test_a_quarter_of_an_hour_is_kept_and_of_it_five_minutes_with_experts() -> None:
    ring = SampleRing()
    for number in range(1000):
        ring.add(sample(SAMPLE_SECONDS * number, hits=HITS + number))
    now = SAMPLE_SECONDS * 999
    history = ring.history(lambda at: at + 1.0)
    assert (len(history.running), history.until) == (HISTORY_SECONDS / SAMPLE_SECONDS, now + 1.0)
    oldest = ring.before(LATELY_SECONDS, now)
    assert (oldest.at, int(oldest.hits[0, 0])) == (now - LATELY_SECONDS, 939)
    assert ring.before(2 * LATELY_SECONDS, now).at == oldest.at


def test_columns_tell_what_happened_between_two_samples() -> None:
    ring = SampleRing()
    ring.add(sample(0.0))
    ring.add(sample(5.0, running=2, queued=3, kv_blocks_used=16, prompt_tokens=100, generated_tokens=50, rejected=4))
    ring.add(sample(10.0, prompt_tokens=100, generated_tokens=100, rejected=5, first=2, first_sum=3))
    history = ring.history(lambda at: at)
    assert (history.running, history.queued, history.rejected) == ((2, 0), (3, 0), (4, 1))
    assert (history.prefill_rate, history.decode_rate) == ((20.0, 0.0), (10.0, 10.0))
    assert (history.kv_used, history.first_token_seconds) == ((0.25, 0.0), (None, 1.5))
    assert history.between_tokens_seconds == (None, None)


def test_what_was_restarted_counts_from_zero() -> None:
    before = sample(0.0, ({**ZERO, "steps": 100, "tokens": 7}, {**ZERO, "steps": 3}), np.full((2, 4), 9, np.int64))
    after = sample(5.0, ({**ZERO, "steps": 2, "tokens": 5}, {**ZERO, "steps": 8}), np.full((2, 4), 4, np.int64))
    assert worker_change(after, before, 0)["tokens"] == 5
    assert worker_change(after, before, 1)["steps"] == 5
    assert worker_change(after, sample(0.0), 1)["steps"] == 8
    assert hits_change(after, before).tolist() == after.hits.tolist()
    assert hits_change(after, sample(0.0)).tolist() == after.hits.tolist()


def test_layers_of_a_host_whose_workers_live_are_counted_on() -> None:
    before, after = (sample(5.0 * number, hits=HITS + number) for number in range(2))
    after.hits[:] = [[12, 0, 0, 2], [9, 9, 9, 10]]
    before.hits[:] = [[11, 1, 0, 2], [9, 9, 8, 8]]
    assert hits_change(after, before).tolist() == [[12, 0, 0, 2], [0, 0, 1, 2]]
