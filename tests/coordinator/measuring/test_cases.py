"""llama-bench's measurements: their names and order, the room they need, and the steps that they run."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from numoe.coordinator.limits import step_limits
from numoe.coordinator.measuring.cases import Case, CaseResult, CaseRunner, list_cases, settings_for
from numoe.coordinator.measuring.steps import Measurement, Steps
from numoe.coordinator.settings import EngineSettings
from numoe.coordinator.workers.group import HostGroup
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.gguf.tensors import TensorType
from numoe.protos.messages import StepLimits
from tests.coordinator.measuring.fake_group import BYTES_PER_STEP, FakeGroup
from tests.tiny_model import TinyShape, tiny_spec

LIMITS = StepLimits(step_tokens=8, sequences=3, context_tokens=192, kv_blocks=9, block_positions=64)


def steps_of(group: FakeGroup) -> Steps:
    return Steps(cast(HostGroup, group), 50, 60.0)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (Case(512, 0), "pp512"),
        (Case(0, 128), "tg128"),
        (Case(512, 128), "pp512+tg128"),
        (Case(0, 128, depth=4096), "tg128 @ d4096"),
        (Case(512, 0, streams=4), "4 x pp512"),
        (Case(0, 128, depth=512, streams=16), "16 x tg128 @ d512"),
    ],
)
def test_cases_are_called_as_llama_bench_calls_them(case: Case, name: str) -> None:
    assert case.name == name


def test_cases_come_in_llama_benchs_order() -> None:
    names = [case.name for case in list_cases((512, 1024, 0), (128,), ((64, 16),), (0, 4096), (1, 4))]
    assert names == [
        *("pp512", "pp1024", "tg128", "pp64+tg16"),
        *("pp512 @ d4096", "pp1024 @ d4096", "tg128 @ d4096", "pp64+tg16 @ d4096"),
        *("4 x pp512", "4 x pp1024", "4 x tg128 @ d512", "4 x tg128 @ d1024", "4 x tg128", "4 x pp64+tg16"),
        *("4 x pp512 @ d4096", "4 x pp1024 @ d4096", "4 x tg128 @ d4608", "4 x tg128 @ d5120", "4 x tg128 @ d4096"),
        "4 x pp64+tg16 @ d4096",
    ]
    assert list_cases((0,), (0,), ((0, 0),), (0,), (1,)) == []


def test_there_is_room_for_the_deepest_and_for_all_streams_and_no_more() -> None:
    cases = [Case(512, 0), Case(0, 128, depth=4096), Case(64, 6, streams=100)]
    settings = settings_for(cases, EngineSettings(kv_type="q8_0"))
    assert (settings.sequences, settings.context_tokens, settings.kv_tokens) == (100, 4224, 100 * 128)
    assert (settings.kv_type, settings.step_tokens) == ("q8_0", 512)
    assert step_limits(settings, 1 << 20).kv_blocks == 200


def test_a_prompt_runs_in_whole_steps_and_only_its_end_is_drawn() -> None:
    group = FakeGroup(LIMITS)
    measured = steps_of(group).prompt(np.zeros((1, 19), np.int32), first=60)
    assert group.seen == [[(60, 8, [0, 1], 0)], [(68, 8, [0, 1], 0)], [(76, 3, [0, 1], 1)]]
    assert measured.weight_bytes == 2 * 3 * BYTES_PER_STEP, "of both workers, also of the one that counts late"
    assert measured.waiting == pytest.approx((0.1 + 0.2) / 2)
    assert measured.seconds > 0


def test_prompts_of_several_rows_share_steps_as_in_serving() -> None:
    group = FakeGroup(LIMITS)
    steps_of(group).prompt(np.zeros((3, 5), np.int32), room=130)
    assert group.seen == [[(0, 5, [0], 1), (0, 3, [3], 0)], [(3, 2, [3], 1), (0, 5, [6], 1)]]


def test_decoded_tokens_of_all_rows_are_one_step_each() -> None:
    group = FakeGroup(LIMITS)
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    steps_of(group).decode(tokens, first=63, room=128)
    assert group.seen == [
        [(63, 1, [0], 1), (63, 1, [2], 1)],
        [(64, 1, [0, 1], 1), (64, 1, [2, 3], 1)],
        [(65, 1, [0, 1], 1), (65, 1, [2, 3], 1)],
    ]
    assert [[chunk.token_ids.tolist() for chunk in step.chunks] for step in group.steps] == [
        [[0], [3]],
        [[1], [4]],
        [[2], [5]],
    ]


def test_a_depth_is_run_once_and_extended_by_what_is_deeper() -> None:
    cases = [Case(0, 2, depth=8), Case(8, 0, depth=8), Case(0, 1, depth=24), Case(0, 1, depth=8, streams=2)]
    group = FakeGroup(LIMITS)
    runner = CaseRunner(steps_of(group), cases)
    for case in cases[:3]:
        assert len(list(runner.run(case, 2))) == 2
    firsts = [(chunks[0][0], chunks[0][1]) for chunks in group.seen]
    assert firsts == [
        *((0, 8), (8, 1)),  # the depth, a token to warm up
        *((8, 1), (9, 1), (8, 1), (9, 1)),
        *((8, 8), (8, 8), (8, 8)),  # warmed by a whole prompt
        *((16, 8), (24, 1), (24, 1), (24, 1)),  # the first 16 positions hold tokens already
    ]
    list(runner.run(cases[3], 1))  # other sequences, other places
    assert [[chunk[:2] for chunk in chunks] for chunks in group.seen[len(firsts) :]] == [
        [(0, 8)],
        [(0, 8)],
        [(8, 1), (8, 1)],
        [(8, 1), (8, 1)],
    ]


def test_speeds_are_of_all_streams_with_the_deviation_of_a_sample() -> None:
    result = CaseResult(Case(0, 10, streams=3), (Measurement(1.0, 1, 0.0), Measurement(3.0, 1, 0.0)))
    assert result.speeds == [30, 10]
    assert result.speed == 20
    assert result.deviation == pytest.approx(float(np.std([30, 10], ddof=1)))
    assert CaseResult(Case(0, 10), (Measurement(1.0, 1, 0.0),)).deviation == 0


def test_decoded_tokens_read_keys_and_values_of_all_positions_before_them() -> None:
    spec = tiny_spec(TinyShape())
    position = 2 * spec.layers * spec.kv_heads * spec.head_size * 2  # f16
    assert (
        Case(0, 4, depth=10, streams=3).kv_bytes(spec, KvTypes(TensorType.F16, TensorType.F16)) == 3 * 4 * 12 * position
    )
    assert Case(512, 0).kv_bytes(spec, KvTypes(TensorType.F16, TensorType.F16)) == 0
