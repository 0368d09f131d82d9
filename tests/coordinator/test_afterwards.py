"""What nobody waits for is done in order, and never in the way."""

from __future__ import annotations

import threading

from numoe.coordinator.afterwards import Afterwards

PATIENCE_SECONDS = 60.0


def test_work_is_done_in_order_by_another_thread() -> None:
    done: list[int] = []
    threads: set[str] = set()

    def work(number: int) -> None:
        done.append(number)
        threads.add(threading.current_thread().name)

    afterwards = Afterwards("another")
    assert all(afterwards.do(lambda number=number: work(number)) for number in range(100))  # type: ignore[misc]
    assert afterwards.finish(PATIENCE_SECONDS)
    assert (done, threads) == (list(range(100)), {"another"})


def test_who_hands_work_over_waits_for_nothing_and_too_much_is_dropped() -> None:
    open_ = threading.Event()
    afterwards = Afterwards("stuck", most_waiting=10)
    began = threading.Event()

    def get_stuck() -> None:
        began.set()
        open_.wait(PATIENCE_SECONDS)

    done: list[int] = []
    afterwards.do(get_stuck)
    assert began.wait(PATIENCE_SECONDS)
    taken = [afterwards.do(lambda: done.append(1)) for _ in range(15)]
    assert taken == [True] * 10 + [False] * 5
    assert not afterwards.finish(0.01)
    open_.set()
    assert afterwards.finish(PATIENCE_SECONDS)
    assert len(done) == 10


def test_its_thread_ends_with_it() -> None:
    afterwards = Afterwards("short-lived")
    threads: list[threading.Thread] = []
    afterwards.do(lambda: threads.append(threading.current_thread()))
    assert afterwards.close(PATIENCE_SECONDS)
    threads[0].join(PATIENCE_SECONDS)
    assert not threads[0].is_alive()
