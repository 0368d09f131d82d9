"""What is shown of workers, flow and requests is worked out of what was counted."""

from __future__ import annotations

from dataclasses import replace

from numoe.coordinator.engine.state import RequestPhase, RequestStatus
from numoe.coordinator.machine.machine_look import MachineFacts, Threads
from numoe.coordinator.operations.parts import MOST_REQUESTS, findings_now, flow_now, requests_now, workers_now
from numoe.coordinator.operations.snapshot import HostFinding
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.doctor.finding import Finding
from numoe.model.planning.plan import Range
from tests.coordinator.api.grpc.grpc_serving import LOCALITY
from tests.coordinator.operations.samples import FACTS, ZERO, sample
from tests.coordinator.workers.holders import SHARDS

BEFORE = ({**ZERO, "steps": 10, "step_ns": 10**9, "bytes_read": 10**9, "wait_ns": 10**8}, ZERO)
NOW = (
    {
        **ZERO,
        "steps": 30,
        "step_ns": 5 * 10**9,
        "bytes_read": 17 * 10**9,
        "wait_ns": 11 * 10**8,
        "seen_ns": 9_900_000_000,
        "tokens": 44,
    },
    ZERO,
)
REQUEST = RequestStatus("r", "c", RequestPhase.DECODE, 5, 5, 21, 50, 1.0, 2.0, 4.0)


WARNING = Finding("warning", "huge pages", "off", "speed", "switch them on")
PLACED = Placement(
    "tensor", (WorkerPlacement(SHARDS[0], "ready", 7, 100, 640, LOCALITY), WorkerPlacement(SHARDS[1], "lost"))
)


def test_a_worker_shows_how_much_of_its_node_it_reads_and_how_long_it_waits() -> None:
    now = sample(10.0, NOW, kv_blocks_used=16, restarts=3)
    first, second = workers_now(PLACED, now, sample(0.0, BEFORE), [FACTS])
    assert (first.peak, first.read_rate, first.fill) == (5e9, 4e9, 0.8)  # two workers share 10 GB/s; 16 GB in 4 s
    assert (first.step_seconds, first.wait_share, first.busy) == (0.2, 0.25, 0.4)
    assert (first.steps, first.tokens, first.restarts, first.seen_ago) == (30, 44, 3, 0.1)
    assert (first.process_threads, first.threads_off) == (9, 2)
    assert (first.on_node_bytes, first.off_node_bytes) == (300 + 200 + 400 + 2000 + 500, 100)
    assert (first.kv_bytes, first.kv_used_bytes) == (640, 160)
    assert (second.state, second.pid, second.fill, second.step_seconds, second.seen_ago) == ("lost", *[None] * 4)
    assert (second.on_node_bytes, second.kv_used_bytes, second.process_threads, second.busy) == (*[None] * 3, 0.0)


def test_workers_share_the_nodes_of_their_own_host() -> None:
    there = MachineFacts(replace(FACTS.host, address="10.0.0.2"), {1: Threads(5, 0), 2: Threads(6, 1)}, (WARNING,))
    other = replace(SHARDS[1], worker=2)
    first, second = (
        WorkerPlacement(one, "ready", 7, host="10.0.0.2", layers=Range(1, 3)) for one in (SHARDS[1], other)
    )
    placement = Placement("tensor", (replace(PLACED.workers[0], layers=Range(0, 1)), first, second))
    told = workers_now(placement, sample(10.0, (*NOW, NOW[0])), sample(0.0, (*BEFORE, BEFORE[0])), [FACTS, there])
    assert [(one.host, one.node, one.first_layer, one.layers) for one in told] == [
        (0, 0, 0, 1),
        (1, 0, 1, 2),
        (1, 0, 1, 2),
    ]
    assert [one.peak for one in told] == [10e9, 5e9, 5e9]
    assert [one.process_threads for one in told] == [9, 5, 6]
    assert told[2].fill == 0.8
    assert findings_now([FACTS, there]) == (HostFinding(1, "warning", "huge pages", "off", "speed", "switch them on"),)


def test_workers_that_are_away_show_nothing_of_what_they_did() -> None:
    first, _ = workers_now(PLACED, sample(10.0), sample(0.0, BEFORE), [FACTS])
    assert (first.steps, first.fill, first.busy, first.wait_share) == (0, None, 0.0, None)


def test_flow_tells_rates_and_means_of_the_time_between() -> None:
    waiting = replace(REQUEST, phase=RequestPhase.QUEUED, submitted_at=7.5)
    before = sample(0.0, prompt_tokens=10, first=1, first_sum=5)
    now = sample(10.0, running=1, queued=1, prompt_tokens=110, generated_tokens=55, first=3, first_sum=6, rejected=2)
    flow = flow_now(now, before, {"stop": 4}, [REQUEST, waiting])
    assert (flow.prefill_rate, flow.decode_rate) == (10.0, 5.5)
    assert (flow.first_token_seconds, flow.between_tokens_seconds) == (0.5, None)
    assert (flow.running, flow.queued, flow.oldest_queued_seconds, flow.rejected) == (1, 1, 2.5, 2)
    assert flow.ended == {"stop": 4}
    assert flow_now(now, before, {}, []).oldest_queued_seconds == 0.0


def test_flow_tells_how_long_the_step_under_way_has_been() -> None:
    assert flow_now(sample(10.0), sample(0.0), {}, []).step_age is None
    assert flow_now(sample(10.0, step_began_at=8), sample(0.0), {}, []).step_age == 2.0
    assert flow_now(sample(10.0, step_began_at=11), sample(0.0), {}, []).step_age == 0.0  # it began while this was made


def test_requests_tell_their_age_and_speed_and_are_not_too_many() -> None:
    [told] = requests_now([REQUEST], 11.0)
    assert (told.id, told.client, told.phase, told.tokens, told.rate, told.age) == ("r", "c", "decode", 21, 10.0, 10.0)
    assert requests_now([replace(REQUEST, first_token_at=0.0, last_token_at=0.0)], 2.0)[0].rate is None
    assert len(requests_now([REQUEST] * (2 * MOST_REQUESTS), 2.0)) == MOST_REQUESTS
