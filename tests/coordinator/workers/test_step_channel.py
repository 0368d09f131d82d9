"""What is published arrives in the arena as it was, and what the workers draw comes back."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.workers.step_channel import StepChannel
from numoe.kernels.threads.waiting import StepAborted, wait_while
from numoe.protos.arena import ABORT, DONE, STEP, ArenaShape, PartShape, arena_layout
from numoe.protos.messages import NO_BLOCK, NOT_DRAWN, Biases, Chunk, Sampling, Step, StepLimits
from tests.coordinator.workers.step_player import Views, playing

LIMITS = StepLimits(step_tokens=16, sequences=4, context_tokens=200, kv_blocks=9, block_positions=64)
PARTS = (PartShape(32, 32, 32, 0, 32), PartShape(32, 32, 32, 0, 11))
LAYOUT = arena_layout(ArenaShape(LIMITS, 2, 64, 4, 2, PARTS))
SECONDS = 60.0


@pytest.fixture
def channel() -> Iterator[StepChannel]:
    made = StepChannel(LAYOUT)
    yield made
    made.close()


@pytest.mark.parametrize("limited", [False, True], ids=["no address has it", "files may not be so large"])
def test_no_memory_for_an_arena_is_a_memory_error_and_leaves_nothing_open(limited: bool) -> None:
    size, before = (LAYOUT.bytes if limited else 1 << 50), os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if limited else soft, hard))
    try:
        with pytest.raises(MemoryError, match=rf"^no memory for {size / 2**30:.1f} GiB"):
            StepChannel(replace(LAYOUT, bytes=size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir("/proc/self/fd") == before


def ints(*numbers: int) -> NDArray[np.int32]:
    return np.array(numbers, np.int32)


def draw_nothing(slot: Views) -> None:
    """A step of zeros."""


PENALISED = Sampling(
    temperature=0.5,
    top_k=7,
    top_p=0.75,
    min_p=0.125,
    repetition_penalty=1.5,
    frequency_penalty=0.25,
    presence_penalty=-0.5,
    seed=-1,
)


def test_a_step_arrives_as_it_was_published(channel: StepChannel) -> None:
    seen: dict[str, Any] = {}

    def keep(slot: Views) -> None:
        seen.update({name: array.copy() for name, array in slot.items()})

    step = Step(
        5,
        (
            Chunk(0, ints(11, 12, 13), ints(4)),
            Chunk(64, ints(21), ints(2, 3), Sampling(seed=9)),
            Chunk(130, ints(31, 32), ints(8, 7, 6), PENALISED, ints(31, 40, 99), ints(0, 2, 1), source_block=5),
        ),
    )
    with playing(channel, LAYOUT, keep):
        channel.publish(step)
        assert channel.wait(SECONDS) is not None
    assert seen["header"].tolist() == [6, 3, 2, 0, 0, 1]
    assert seen["source_blocks"][:3].tolist() == [NO_BLOCK, NO_BLOCK, 5]
    assert seen["token_ids"][:6].tolist() == [11, 12, 13, 21, 31, 32]
    assert seen["positions"][:6].tolist() == [0, 1, 2, 64, 130, 131]
    assert seen["token_sequence"][:6].tolist() == [0, 0, 0, 1, 2, 2]
    assert seen["kv_tables"][0, :1].tolist() == [4]
    assert seen["kv_tables"][1, :2].tolist() == [2, 3]
    assert seen["kv_tables"][2, :3].tolist() == [8, 7, 6]
    plain, penalised = seen["samples"][:2]
    assert (plain["token"], plain["position"], plain["seed"], plain["seen"]) == (3, 65, 9, 0)
    assert (penalised["token"], penalised["position"]) == (5, 132)
    assert penalised["seed"] == 2**64 - 1
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty"):
        assert penalised[name] == getattr(PENALISED, name)
    assert penalised["presence_penalty"] == -0.5
    listed = slice(penalised["first_seen"], penalised["first_seen"] + penalised["seen"])
    assert seen["seen_tokens"][listed].tolist() == [31, 40, 99]
    assert seen["seen_counts"][listed].tolist() == [0, 2, 1]


def test_tokens_are_drawn_after_each_of_a_chunks_last_ones(channel: StepChannel) -> None:
    samples: list[tuple[int, int, int]] = []

    def keep(slot: Views) -> None:
        samples.extend((int(one["token"]), int(one["position"]), int(one["seed"])) for one in slot["samples"][:4])

    chunks = (
        Chunk(0, ints(7, 8), ints(0), Sampling(seed=5)),
        Chunk(100, ints(1, 2, 3, 4), ints(1, 2), Sampling(seed=6), draws=3),
    )
    with playing(channel, LAYOUT, keep):
        channel.publish(Step(1, chunks))
        result = channel.wait(SECONDS)
    assert result is not None
    assert len(result.token_ids) == 4
    assert samples == [(1, 2, 5), (3, 102, 6), (4, 103, 6), (5, 104, 6)]


def test_logits_of_all_workers_are_found_by_row_and_token(channel: StepChannel) -> None:
    wide, narrow = (np.arange(4 * width, dtype=np.float32).reshape(4, width) for width in (32, 16))

    with playing(channel, LAYOUT, draw_nothing) as player:
        for worker, logits in enumerate((wide, -narrow)):
            LAYOUT.view(player.memory, f"worker{worker}.logits")[:4] = logits
        channel.publish(Step(1, (Chunk(0, ints(7, 8, 9, 1), ints(0), Sampling(), draws=4),)))
        assert channel.wait(SECONDS) is not None
    whole = np.concatenate([wide, -narrow], axis=1)
    np.testing.assert_array_equal(channel.logits(), whole)
    np.testing.assert_array_equal(channel.logits(slice(1, 3)), whole[1:3])
    np.testing.assert_array_equal(channel.logits_of(ints(0, 31, 32, 42)), whole[range(4), [0, 31, 32, 42]])


def test_seen_tokens_of_several_samples_lie_one_after_the_other(channel: StepChannel) -> None:
    ranges: list[tuple[int, int]] = []
    tokens: list[int] = []

    def keep(slot: Views) -> None:
        ranges.extend((int(sample["first_seen"]), int(sample["seen"])) for sample in slot["samples"][:3])
        tokens.extend(slot["seen_tokens"][:5].tolist())

    chunks = (
        Chunk(0, ints(1), ints(0), PENALISED, ints(1, 2), ints(0, 0)),
        Chunk(0, ints(1), ints(1), Sampling(), ints(5, 6, 7), ints(0, 0, 0)),  # penalises nothing: left out
        Chunk(0, ints(1), ints(2), PENALISED, ints(3, 4, 9), ints(0, 0, 0)),
    )
    with playing(channel, LAYOUT, keep):
        channel.publish(Step(1, chunks))
        assert channel.wait(SECONDS) is not None
    assert ranges == [(0, 2), (2, 0), (2, 3)]
    assert tokens == [1, 2, 3, 4, 9]


def test_what_was_drawn_comes_back_with_the_steps_number(channel: StepChannel) -> None:
    def draw(slot: Views) -> None:
        slot["drawn_tokens"][:] = slot["token_ids"][:4] + 1
        slot["drawn_logprobs"][:] = [-1.5, -2.5, -3.5, -4.5]

    with playing(channel, LAYOUT, draw):
        for number in range(1, 50):
            channel.publish(Step(number, tuple(Chunk(0, ints(number + row), ints(row), Sampling()) for row in (0, 1))))
            result = channel.wait(SECONDS)
            assert result is not None
            assert result.number == number
            assert result.token_ids.tolist() == [number + 1, number + 2]
            assert result.logprobs.tolist() == [-1.5, -2.5]
            assert 0 <= result.seconds < SECONDS


def test_a_result_does_not_change_when_the_next_step_is_drawn(channel: StepChannel) -> None:
    def draw(slot: Views) -> None:
        slot["drawn_tokens"][0] += 1

    with playing(channel, LAYOUT, draw):
        results = []
        for number in (1, 2):
            channel.publish(Step(number, (Chunk(0, ints(1), ints(0), Sampling()),)))
            results.append(channel.wait(SECONDS))
    assert [result.token_ids.tolist() for result in results if result is not None] == [[1], [2]]


def test_a_prompt_in_the_middle_draws_nothing(channel: StepChannel) -> None:
    with playing(channel, LAYOUT, draw_nothing):
        channel.publish(Step(1, (Chunk(0, ints(1, 2, 3), ints(0)),)))
        result = channel.wait(SECONDS)
    assert result is not None
    assert result.token_ids.size == result.logprobs.size == 0


def test_a_channel_is_idle_but_for_the_time_of_a_step(channel: StepChannel) -> None:
    assert channel.idle
    seen: list[bool] = []
    with playing(channel, LAYOUT, lambda slot: seen.append(channel.idle)):
        channel.publish(Step(1, ()))
        assert channel.wait(SECONDS) is not None
    assert seen == [False]
    assert channel.idle


def test_waiting_for_a_step_that_is_not_done_ends_with_none(channel: StepChannel) -> None:
    channel.publish(Step(1, (Chunk(0, ints(1), ints(0)),)))
    assert channel.wait(0.0) is None
    assert channel.wait(0.01) is None


def test_step_numbers_wrap(channel: StepChannel) -> None:
    """After 2**31 - 1 steps the words go on at -2**31."""
    channel._published = channel._words[STEP // 4] = channel._words[DONE // 4] = 2**31 - 2
    with playing(channel, LAYOUT, draw_nothing) as player:
        for number in range(4):
            channel.publish(Step(number, (Chunk(0, ints(1), ints(0)),)))
            assert channel.wait(SECONDS) is not None
        assert player.words[STEP // 4] == player.words[DONE // 4] == -(2**31) + 2


def test_aborting_ends_the_wait_of_the_workers(channel: StepChannel) -> None:
    with playing(channel, LAYOUT, draw_nothing) as player:
        channel.abort()
        player.thread.join(SECONDS)
        assert isinstance(player.ended_by, StepAborted)


def test_states_counters_and_logits_are_those_the_workers_wrote(channel: StepChannel) -> None:
    def write(slot: Views) -> None:
        for worker, vocabulary in enumerate((32, 16)):
            LAYOUT.view(player.memory, f"worker{worker}.state")[0] = worker + 1
            LAYOUT.view(player.memory, f"worker{worker}.counters")[0]["tokens"] = 70 + worker
            logits = LAYOUT.view(player.memory, f"worker{worker}.logits")
            logits[:] = 100 * worker + np.arange(vocabulary)

    with playing(channel, LAYOUT, write) as player:
        channel.publish(Step(1, tuple(Chunk(0, ints(1), ints(row), Sampling()) for row in range(2))))
        assert channel.wait(SECONDS) is not None
    assert [channel.state(worker) for worker in (0, 1)] == [1, 2]
    assert [int(channel.counters(worker)["tokens"]) for worker in (0, 1)] == [70, 71]
    np.testing.assert_array_equal(channel.logits(), [[*range(32), *range(100, 116)]] * 2)


def test_the_arena_is_zeros_at_first_and_gone_with_its_last_descriptor() -> None:
    channel = StepChannel(LAYOUT)
    assert os.fstat(channel.descriptor).st_size == LAYOUT.bytes
    assert os.fstat(channel.descriptor).st_nlink == 0  # no name in any file system
    assert [channel.state(worker) for worker in (0, 1)] == [0, 0]
    channel.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(channel.descriptor)


def test_biases_and_masks_of_several_samples_find_their_places(channel: StepChannel) -> None:
    """What is allowed is asked for once the workers run, and they are told when it is there."""
    seen: list[Any] = []

    def wait_and_keep(slot: Views) -> None:
        ready = slot["masks_ready"].ctypes.data
        assert slot["allowed"][1].tolist() == [0, 0, 0, 0]
        running.set()
        wait_while(ready, np.int32(0), ready + 64, player.memory.ctypes.data + ABORT, 0, 0, 0, player.profile)
        seen.extend((slot["samples"][:3].copy(), slot["bias_tokens"][:5].copy(), slot["allowed"][:3].copy()))
        slot["top_tokens"][1, :2], slot["top_logprobs"][1, :2] = (8, 9), (-1, -2)

    def allowed() -> NDArray[np.uint32]:
        assert running.wait(SECONDS)
        return np.array([5, 6], np.uint32)

    running = threading.Event()
    one = Biases(ints(1, 2), np.ones(2, np.float32))
    other = Biases(ints(3, 4, 5), np.ones(3, np.float32), repeats=2)
    chunks = (
        Chunk(0, ints(1), ints(0), Sampling(), biases=one),
        Chunk(0, ints(1), ints(1), Sampling(), allowed=allowed, top=2),
        Chunk(0, ints(1), ints(2), Sampling(), biases=other, given=ints(9)),
    )
    with playing(channel, LAYOUT, wait_and_keep) as player:
        channel.publish(Step(1, chunks))
        result = channel.wait(SECONDS)
    assert result is not None
    assert result.alternatives(1, 2) == ((8, -1.0), (9, -2.0))
    samples, tokens, masks = seen
    fields = ("first_bias", "biases", "repeats", "masked", "top", "given")
    assert [tuple(int(sample[name]) for name in fields) for sample in samples] == [
        (0, 2, 0, 0, 0, NOT_DRAWN),
        (2, 0, 0, 1, 2, NOT_DRAWN),
        (2, 1, 2, 0, 0, 9),
    ]
    assert tokens.tolist() == [1, 2, 3, 4, 5]
    assert masks[1].tolist() == [5, 6, 0, 0]
