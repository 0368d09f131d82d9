"""Steps through several hosts, over real streams: in order, several at once, and what becomes of them in a loss."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from numoe.coordinator.machine.machine_look import Threads
from numoe.coordinator.stages import link
from numoe.coordinator.stages import server as stage_server
from numoe.coordinator.stages.pipeline import Hosts, Pipeline
from numoe.coordinator.workers.expert_tally import ExpertTally
from numoe.model.architectures.spec import stage_of
from numoe.model.planning.moves import ExpertMove
from numoe.protos.errors import HostsChanged, HostsMissing, PlanError, SetupError, WorkerLost
from numoe.protos.messages import NOWHERE, Step
from tests.coordinator.stages.fake_hosts import (
    SECONDS,
    WIRE,
    FakeGroup,
    FakeHost,
    FakeLoader,
    fake_pipeline,
    machine_facts,
    step_of,
    tiny_spec,
    wait_for,
)


def test_steps_go_through_all_hosts_and_come_back_in_order(tmp_path: Path) -> None:
    with fake_pipeline(tiny_spec(tmp_path), (0, 1, 2, 3)) as (pipeline, groups):
        assert pipeline.depth == 3
        for number in range(3):
            pipeline.submit(step_of(number, [1, 2, 3 + number], [7]))
        for number in range(3):
            result = pipeline.collect(SECONDS)
            assert result.number == number
            assert result.token_ids.tolist() == [6 + number, 10]
            assert result.logprobs.tolist() == [-6.0 - number, -10.0]
            assert result.experts_run.tolist() == [9, 3]
            assert 0.0 < result.seconds < SECONDS
            assert result.not_finite == NOWHERE
        for group in groups:
            assert [[chunk.sampling for chunk in step.chunks] for step in group.steps] == [
                [chunk.sampling for chunk in step.chunks] for step in groups[0].steps
            ]


def test_all_hosts_work_at_once(tmp_path: Path) -> None:
    meeting = threading.Barrier(3)
    with fake_pipeline(tiny_spec(tmp_path), (0, 1, 2, 3)) as (pipeline, groups):

        def meet(step: Step) -> None:
            meeting.wait(SECONDS)

        for number in range(3):
            pipeline.submit(step_of(number, [1]))
        pipeline.collect(SECONDS)
        for place, group in enumerate(groups):  # the last host's next step is 3 - 2, and so on
            first = 5 - place
            group.before_collect = lambda step, first=first: meet(step) if step.number == first else None  # type: ignore[misc]
        for number in range(3, 6):
            pipeline.submit(step_of(number, [1]))
            pipeline.collect(SECONDS)
        assert not meeting.broken


def test_where_numbers_stop_to_be_finite_is_told_of_the_whole_model(tmp_path: Path) -> None:
    with fake_pipeline(tiny_spec(tmp_path), (0, 2, 3)) as (pipeline, _):
        pipeline.submit(step_of(0, [1], checked=True))
        assert pipeline.collect(SECONDS).not_finite == 1 + 2 * 2


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_loss_on_any_host_is_told_and_only_what_died_is_started_anew(which: int, tmp_path: Path) -> None:
    with fake_pipeline(tiny_spec(tmp_path), (0, 1, 2, 3)) as (pipeline, groups):

        def lose(step: Step) -> None:
            groups[which].lost = WorkerLost("worker 1 died", (1,))

        groups[which].before_collect = lose
        pipeline.submit(step_of(0, [1]))
        pipeline.submit(step_of(1, [2]))
        with pytest.raises(WorkerLost, match="worker 1 died") as told:
            pipeline.collect(SECONDS)
        assert which == 0 or f"host{which}" in str(told.value)
        assert told.value.workers == (2 * which + 1,)
        with pytest.raises(WorkerLost):
            pipeline.check()
        groups[which].before_collect = lambda step: None
        pipeline.restart(lambda: None)
        assert [group.restarts for group in groups] == [int(number == which) for number in range(3)]
        pipeline.submit(step_of(2, [5]))
        assert pipeline.collect(SECONDS).token_ids.tolist() == [8]


def test_a_worker_that_dies_while_nothing_is_computed_is_noticed(tmp_path: Path) -> None:
    with fake_pipeline(tiny_spec(tmp_path), (0, 1, 3)) as (pipeline, groups):
        pipeline.check()
        groups[1].lost = WorkerLost("worker 0 died", (0,))
        with pytest.raises(WorkerLost, match="host1: worker 0 died"):
            wait_for(lambda: pipeline.check() is not None)  # type: ignore[func-returns-value]


def test_closing_ends_who_waits(tmp_path: Path) -> None:
    with fake_pipeline(tiny_spec(tmp_path), (0, 1, 3)) as (pipeline, groups):
        held = threading.Event()
        groups[1].before_collect = lambda step: held.wait(SECONDS)  # type: ignore[assignment]
        pipeline.submit(step_of(0, [1]))
        closing = threading.Timer(0.2, pipeline.close)
        closing.start()
        with pytest.raises(WorkerLost, match="as the service ends"):
            pipeline.collect(SECONDS)
        held.set()
        closing.join()


def test_hosts_of_another_service_or_version_are_refused(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    other = FakeHost("host1", spec, link.Wire("1.3", "another", WIRE.message_bytes))
    try:
        stream = link.StageLink(WIRE, (other.address,), lambda result: None, lambda lost: None)
        with pytest.raises(WorkerLost, match=r"host1: found numoe 1\.2, expected 1\.3"):
            stream.wait_open(SECONDS)
        stream.close()
    finally:
        other.close()


def test_a_host_that_is_not_there_is_named(tmp_path: Path) -> None:
    stream = link.StageLink(WIRE, ("127.0.0.1:1",), lambda result: None, lambda lost: None)
    with pytest.raises(WorkerLost, match=r"host 127\.0\.0\.1:1: .*[Rr]efused"):
        stream.wait_open(SECONDS)
    stream.close()


HOST = """
import sys, signal
from pathlib import Path
from tests.coordinator.stages.fake_hosts import FakeHost, tiny_spec
host = FakeHost("host1", tiny_spec(Path(sys.argv[1])))
print(host.address, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_that_dies_or_is_silent_is_noticed(how: signal.Signals, tmp_path: Path) -> None:
    lost: list[tuple[WorkerLost, float]] = []
    command = [sys.executable, "-c", HOST, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            stream = link.StageLink(
                WIRE, (address,), lambda _: None, lambda told: lost.append((told, time.monotonic()))
            )
            stream.wait_open(SECONDS)
            time.sleep(3 * link.BEAT_SECONDS)
            assert stream.late == 0.0
            began = time.monotonic()
            os.kill(process.pid, how)
            if how == signal.SIGSTOP:
                wait_for(lambda: stream.late > 0)
                assert time.monotonic() - began < link.SILENT_SECONDS
            with pytest.raises(WorkerLost, match="silent" if how == signal.SIGSTOP else address):
                wait_for(lambda: stream.check() is not None)  # type: ignore[func-returns-value]
            assert len(lost) == 1
            assert lost[0][1] - began < link.SILENT_SECONDS + 1.0
            stream.close()
        finally:
            process.kill()


def test_workers_and_experts_are_counted_on_from_host_to_host(tmp_path: Path) -> None:
    with fake_pipeline(tiny_spec(tmp_path), (0, 1, 3)) as (pipeline, groups):
        placement = pipeline.placement()
        assert [(one.host, one.shard.worker) for one in placement.workers] == [
            ("", 0),
            ("", 1),
            ("host1", 2),
            ("host1", 3),
        ]
        assert placement.ready_at == 1.0
        seen = pipeline.machines(machine_facts("own", [0, 1]))
        assert [one.host.address for one in seen] == ["host0", "host1"]
        assert [one.host.name for one in seen] == ["own", "machine of layer 1"]
        assert seen[0].threads == {0: Threads(9, 0), 1: Threads(9, 1)}
        assert seen[1].threads == {2: Threads(9, 0), 3: Threads(9, 1)}
        assert pipeline.expert_hits()[:, 0].tolist() == [0, 1, 1]
        assert [int(one["steps"]) for one in pipeline.counters()] == [0, 0, 0, 0]
        pipeline.move_expert(ExpertMove(layer=2, expert=5, source=3, target=2))
        pipeline.move_expert(ExpertMove(layer=0, expert=4, source=0, target=None))
        assert groups[1].moves == [ExpertMove(layer=1, expert=5, source=1, target=0)]
        assert groups[0].moves == [ExpertMove(layer=0, expert=4, source=0, target=None)]
        for source, target in ((0, 1), (2, 1), (3, 4)):
            with pytest.raises(PlanError, match="another host's"):
                pipeline.move_expert(ExpertMove(layer=2, expert=5, source=source, target=target))


def test_a_defect_in_a_stage_is_a_loss_at_once(tmp_path: Path) -> None:
    with fake_pipeline(tiny_spec(tmp_path), (0, 1, 3)) as (pipeline, groups):

        def break_(step: Step) -> None:
            raise ValueError("a defect")

        groups[1].before_collect = break_
        pipeline.submit(step_of(0, [1]))
        with pytest.raises(WorkerLost, match="host1: ValueError: a defect"):
            pipeline.collect(SECONDS)


def lose(host: FakeGroup, pipeline: Pipeline) -> None:
    """For good, as its hosts see it."""
    assert isinstance(host, FakeHost)
    host.gone = True
    host.server.close()
    with pytest.raises(WorkerLost):
        wait_for(lambda: pipeline.check() is not None)  # type: ignore[func-returns-value]


def test_what_could_not_be_loaded_without_a_host_is_tried_again(tmp_path: Path) -> None:
    anew = hosts_of(FakeGroup(tiny_spec(tmp_path)))
    for first in (WorkerLost("a worker died while loading"), HostsMissing("they have no room")):
        loader = FakeLoader(first, anew)
        with fake_pipeline(tiny_spec(tmp_path), (0, 1, 3), loader) as (pipeline, groups):
            lose(groups[1], pipeline)
            with pytest.raises(type(first), match=r"while loading|no room"):
                pipeline.restart(lambda: None)
            with pytest.raises(HostsChanged, match="host1 are gone"):
                pipeline.check()
            pipeline.restart(lambda: None)
            assert pipeline.depth == 1
            pipeline.submit(step_of(1, [5]))
            assert pipeline.collect(SECONDS).token_ids.tolist() == [8]
        assert loader.ended == 1
        anew = hosts_of(FakeGroup(tiny_spec(tmp_path)))


def test_hosts_that_remain_run_all_layers_where_one_is_gone(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    first, last = FakeGroup(stage_of(spec, 0, 2)), FakeHost("host1", stage_of(spec, 2, 3))
    with fake_pipeline(spec, (0, 1, 2, 3), FakeLoader(hosts_of(first, last))) as (pipeline, groups):
        lose(groups[2], pipeline)
        pipeline.restart(lambda: None)
        assert [group.closed for group in groups] == [1, 1, 1]
        assert pipeline.depth == 2
        pipeline.submit(step_of(1, [5, 6]))
        assert pipeline.collect(SECONDS).token_ids.tolist() == [9]
    assert [first.closed, last.closed] == [1, 1]


def test_other_hosts_run_the_layers_where_an_operator_wants_it(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    one, first, last = FakeGroup(spec), FakeGroup(stage_of(spec, 0, 2)), FakeHost("host1", stage_of(spec, 2, 3))
    loader = FakeLoader(hosts_of(one), hosts_of(first, last))
    with fake_pipeline(spec, (0, 1, 3), loader) as (pipeline, groups):
        with pytest.raises(PlanError, match="--hosts is nobody"):
            pipeline.change_hosts("nobody")
        pipeline.check()
        for wanted, depth in (("here", 1), ("here,host1", 2)):
            assert pipeline.change_hosts(wanted) == tuple(wanted.split(","))
            with pytest.raises(HostsChanged, match=f"over {wanted.replace(',', ', ')}"):
                pipeline.submit(step_of(1, [5, 6]))
            pipeline.restart(lambda: None)
            assert pipeline.depth == depth
            pipeline.submit(step_of(1, [5, 6]))
            assert pipeline.collect(SECONDS).token_ids.tolist() == [9]
        assert [group.closed for group in (*groups, one)] == [1, 1, 1]


def test_a_profile_is_that_of_all_hosts_or_of_none(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, 6)
    with fake_pipeline(spec, (0, 2, 4, 6)) as (pipeline, groups):
        profile = pipeline.end_profile(pipeline.begin_profile(2), lambda node: 1e9, "as told")
        assert [worker.host for worker in profile.workers] == ["", "", "host1", "host1", "host2", "host2"]
        assert profile.layers == 6
        assert [group.profiles for group in groups] == [["begun", "ended"]] * 3
        groups[2].lost = WorkerLost("it died")
        with pytest.raises(WorkerLost, match="it died"):
            pipeline.begin_profile(2)
        assert [group.profiles[2:] for group in groups[:2]] == [["begun", "closed"], ["begun", "closed"]]


def test_experts_of_all_hosts_are_counted_whoever_runs_their_layers(tmp_path: Path) -> None:
    spec, path = tiny_spec(tmp_path), tmp_path / "stats.json"
    tally = ExpertTally(spec, path)
    with fake_pipeline(spec, (0, 1, 3), FakeLoader(hosts_of(FakeGroup(spec))), tally) as (pipeline, _):
        pipeline.submit(step_of(0, [1, 2, 3]))
        pipeline.collect(SECONDS)
        pipeline.change_hosts("here")
        pipeline.restart(lambda: None)
        assert (tally.counts == 3).all()
        pipeline.submit(step_of(1, [5, 6]))
        pipeline.collect(SECONDS)
    assert (tally.counts == 5).all()
    assert path.exists()


def hosts_of(group: FakeGroup, *others: FakeHost) -> Hosts:
    return Hosts(group, others, WIRE)  # type: ignore[arg-type]  # as much of a group as it uses


def test_a_port_that_a_lost_process_still_has_is_waited_for(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        threading.Timer(0.5, taken.close).start()
        host = FakeHost("host1", spec, address=address)
    assert host.address == address
    host.close()


def test_a_port_that_somebody_else_has_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_server, "LISTEN_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SetupError, match=f"host1 cannot listen on {address}"):
            FakeHost("host1", tiny_spec(tmp_path), address=address)
