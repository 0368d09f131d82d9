"""What is said before a plan is obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.machine.planning import warn_of_quota
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.splitting import PlanOptions, make_plan
from tests.machines import TWO_XEON_6138, write, write_machine
from tests.tiny_model import TinyShape, tiny_spec


@pytest.mark.parametrize(
    ("quota", "threads", "told"),
    [
        ("max", 20, ""),
        ("4000000", 20, ""),
        ("1250000", 6, ""),
        ("1250000", 20, "a cgroup quota of 12.5 CPUs"),
        ("50000", 1, "a cgroup quota of 0.5 CPUs"),
    ],
)
def test_a_quota_below_the_cores_that_compute_is_told(tmp_path: Path, quota: str, threads: int, told: str) -> None:
    root = write_machine(tmp_path, TWO_XEON_6138)
    write(root, "proc/self/cgroup", "0::/pod")
    write(root, "sys/fs/cgroup/pod/cpu.max", f"{quota} 100000")
    shards = make_plan(
        tiny_spec(TinyShape(width=640, expert_width=640)), read_topology(root), PlanOptions(threads_per_worker=threads)
    )
    with capture_logs() as said:
        warn_of_quota(shards, root)
    assert [line["found"] for line in said] == ([told] if told else [])
    for line in said:
        assert line["expected"] == f"none, or at least {2 * threads}, as many as the workers compute on"
        assert f"at most {max(1, int(float(told.split()[4])))} threads in all" in line["mend"]
