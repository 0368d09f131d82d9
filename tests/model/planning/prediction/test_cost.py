"""Predicted steps: bytes over bandwidth where nothing else counts, and the shape of a large model on two nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.topology import Topology
from numoe.model.planning.expert_owners import share_experts
from numoe.model.planning.expert_stats import ExpertStats
from numoe.model.planning.panels import rows_bytes
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.prediction.cost import DRAW_SECONDS, CostModel
from numoe.model.planning.prediction.forecast import Forecast
from numoe.model.planning.prediction.speeds import GIGA, STREAM_RATES, Speeds, told_speeds
from numoe.model.planning.prediction.worker_rates import NOT_OVERLAPPED
from numoe.model.planning.splitting import PlanOptions, make_plan
from tests.model.planning.examples import machine
from tests.tiny_model import TinyShape, tiny_spec

QWEN3_235B = TinyShape(
    layers=94,
    width=4096,
    query_heads=64,
    kv_heads=4,
    head_size=128,
    experts=128,
    active_experts=8,
    expert_width=1536,
    vocabulary=151936,
    type=TensorType.Q8_0,
)
TWO_NODES = machine(20, 20)
ENDLESS = 1e30  # a peak at which nothing is computed, only read


def predict(
    spec: ModelSpec, made: ShardPlan, topology: Topology, speeds: Speeds, batch: int = 1, context: int = 0
) -> Forecast:
    return CostModel(spec, made.shards, topology, speeds, batch=batch, context=context).predict(made)


def only_reading(bandwidth: float) -> Speeds:
    nodes = dict.fromkeys(range(8), bandwidth)
    return Speeds(
        nodes,
        "",
        bandwidth,
        ENDLESS,
        gather_seconds=0.0,
        barrier_seconds=0.0,
        arrival_seconds=0.0,
        link_bandwidth=ENDLESS,
    )


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_step_that_only_reads_takes_the_time_of_its_bytes(workers: int) -> None:
    spec = tiny_spec(replace(QWEN3_235B, layers=2))
    made = make_plan(spec, machine(*[4] * workers))
    seconds = predict(spec, made, machine(*[4] * workers), only_reading(GIGA)).seconds
    read = max(shard_bytes(made, spec, shard).read_per_token for shard in made.shards)
    matrices = seconds.attention + seconds.router + seconds.experts + seconds.output
    assert matrices == pytest.approx(read / GIGA)


@pytest.mark.parametrize(("context", "cores"), [(512, 2), (1000, 4), (50_000, 20)])
def test_cores_share_key_value_heads_and_pieces_of_a_context(context: int, cores: int) -> None:
    spec = tiny_spec(replace(QWEN3_235B, layers=1))
    made = make_plan(spec, TWO_NODES)
    bytes_of_worker = 2 * context * 128 * 2 * 2
    slow_cores = replace(only_reading(100 * GIGA), core_bandwidth=GIGA)
    seconds = predict(spec, made, TWO_NODES, slow_cores, context=context).seconds
    assert seconds.kv_cache == pytest.approx(bytes_of_worker / (cores * GIGA))
    seconds = predict(spec, made, TWO_NODES, only_reading(GIGA), context=context).seconds
    assert seconds.kv_cache == pytest.approx(bytes_of_worker / GIGA)


def test_slow_cores_bound_formats_that_cost_more_to_unpack() -> None:
    rate = STREAM_RATES[TensorType.Q2_K]
    spec = tiny_spec(replace(QWEN3_235B, layers=1, type=TensorType.Q2_K))
    made = make_plan(spec, machine(1))
    bytes_of_head = rows_bytes(spec.output, spec.vocabulary)
    seconds = predict(spec, made, machine(1), replace(only_reading(rate), integer_peak=1e12)).seconds
    assert seconds.output == pytest.approx((1 + NOT_OVERLAPPED) * bytes_of_head / rate)
    slower = predict(spec, made, machine(1), replace(only_reading(rate), integer_peak=0.5e12)).seconds
    assert slower.output == pytest.approx((2 + NOT_OVERLAPPED) * bytes_of_head / rate)


def test_two_workers_of_one_node_share_its_bandwidth() -> None:
    spec = tiny_spec(replace(QWEN3_235B, layers=1))
    together, apart = (
        predict(spec, make_plan(spec, topology, PlanOptions(workers=2)), topology, only_reading(GIGA)).seconds.output
        for topology in (machine(4), machine(4, 4))
    )
    assert together == pytest.approx(2 * apart)


def test_more_streams_read_more_experts_but_not_more_of_the_rest() -> None:
    spec = tiny_spec(replace(QWEN3_235B, layers=2))
    one, many = (
        predict(spec, make_plan(spec, TWO_NODES), TWO_NODES, only_reading(GIGA), batch=batch).seconds
        for batch in (1, 16)
    )
    assert many.attention == one.attention
    assert many.output == one.output
    distinct = 128 * (1 - (1 - 8 / 128) ** 16)  # of 16 tokens that choose 8 of 128 each
    assert many.experts / one.experts == pytest.approx(distinct / 8, rel=0.02)  # steps are drawn: 16 * 24 of them


def skewed(spec: ModelSpec) -> ExpertStats:
    """Choices as Zipf's law has them: the n-th expert of a layer n times less often than the first."""
    weights = [1_000_000 // (rank + 1) for rank in range(spec.experts)]
    rows = [
        tuple(weights[(17 * expert + 29 * layer) % spec.experts] for expert in range(spec.experts))
        for layer in range(spec.layers)
    ]
    return ExpertStats(spec.name, spec.active_experts, tuple(rows))


def split_cost(stats: ExpertStats | None, spec: ModelSpec, replicas: int | None) -> Forecast:
    base = make_plan(spec, TWO_NODES)
    loads = [(1.0,) * spec.experts if stats is None else stats.shares(layer) for layer in range(spec.layers)]
    owners = [None if replicas is None else share_experts(load, 2, replicas) for load in loads]
    made = replace(base, experts=tuple(owners))
    return CostModel(spec, base.shards, TWO_NODES, told_speeds(TWO_NODES, [105.0]), stats).predict(made)


def test_a_quarter_of_replicas_brings_skewed_whole_experts_within_5_percent_of_rows() -> None:
    spec = tiny_spec(QWEN3_235B)
    stats = skewed(spec)
    rows, none, quarter = (split_cost(stats, spec, replicas) for replicas in (None, 0, 32))
    assert rows.imbalance == pytest.approx(1.0)
    assert none.seconds.total > 1.05 * rows.seconds.total
    assert rows.seconds.total < quarter.seconds.total < 1.05 * rows.seconds.total


def test_uniform_routing_needs_more_replicas() -> None:
    spec = tiny_spec(QWEN3_235B)
    rows, none, quarter, half = (split_cost(None, spec, replicas) for replicas in (None, 0, 32, 64))
    assert none.imbalance == pytest.approx(5.06 / 4, rel=0.05)
    assert rows.seconds.total < half.seconds.total < quarter.seconds.total < none.seconds.total


def test_more_threads_of_the_same_cores_wait_longer_for_each_other() -> None:
    spec, topology = tiny_spec(replace(QWEN3_235B, layers=2)), machine(8, siblings=2)
    alone, paired = (
        predict(spec, make_plan(spec, topology, PlanOptions(threads_per_worker=threads)), topology, only_waiting())
        for threads in (8, 16)
    )
    waits = 2 * 8 * (only_waiting().wait_seconds(16) - only_waiting().wait_seconds(8))  # 8 of each of two layers
    assert paired.seconds.rest - alone.seconds.rest == pytest.approx(waits)


def only_waiting() -> Speeds:
    return replace(only_reading(GIGA), arrival_seconds=1e-3, group_seconds=1e-2)


@pytest.mark.parametrize("batch", [1, 40])
def test_a_draw_takes_time_in_proportion_to_the_vocabulary(batch: int) -> None:
    small, large = (tiny_spec(TinyShape(vocabulary=size)) for size in (1600, 160_000))
    least, most = (
        predict(spec, make_plan(spec, machine(4, 4)), machine(4, 4), only_reading(ENDLESS), batch).seconds.rest
        for spec in (small, large)
    )
    turns = -(-batch // 8)  # of each core
    assert most - least == pytest.approx(turns * (160_000 - 1600) * DRAW_SECONDS)
    assert 0.1e-3 < 151_936 * DRAW_SECONDS < 1.5e-3  # what draws without and with filters took
