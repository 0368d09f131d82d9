"""A bound program keeps its CPUs and its memory node through exec, as the kernel tells it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from numoe.model.machine.topology_reading import read_topology

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 60.0
TELL = """
import json, os, threading
cpus = []
thread = threading.Thread(target=lambda: cpus.append(sorted(os.sched_getaffinity(0))))
thread.start()
thread.join()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
policies = {line.split()[1] for line in open("/proc/self/numa_maps")}
print(json.dumps({
    "status": status["Cpus_allowed_list"].strip(), "thread": cpus[0], "policies": sorted(policies),
    "binding": os.environ["NUMOE_BINDING"],
}))
"""


def run_bound(memory: object, cpus: object, *program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "numoe.worker.placing.binding", str(memory), str(cpus), *program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)


def node_and_cpu() -> tuple[int, int]:
    """A node with a CPU that this process may use."""
    allowed = os.sched_getaffinity(0)
    for node in read_topology().nodes:
        for core in node.cores:
            for cpu in core:
                if cpu in allowed and node.memory_bytes:
                    return node.id, cpu
    raise AssertionError("no node has both a CPU and memory")


def test_cpus_and_memory_policy_survive_exec_and_hold_for_every_thread_and_mapping() -> None:
    node, cpu = node_and_cpu()
    process = run_bound(node, cpu, sys.executable, "-c", TELL)
    assert process.returncode == 0, process.stderr
    told = json.loads(process.stdout)
    assert told["status"] == str(cpu)
    assert told["thread"] == [cpu]
    if told["binding"] == "cpus":
        pytest.skip("the kernel refuses memory policies to this process")
    assert told["binding"] == "cpus+memory"
    assert told["policies"] == [f"bind:{node}"]


@pytest.mark.parametrize(
    ("memory", "binding", "policy"),
    [("interleave:{}", "cpus+interleaved", "interleave:{}"), ("any", "cpus", "default")],
)
def test_pages_may_lie_in_turn_or_as_the_kernel_likes(memory: str, binding: str, policy: str) -> None:
    node, cpu = node_and_cpu()
    process = run_bound(memory.format(node), cpu, sys.executable, "-c", TELL)
    assert process.returncode == 0, process.stderr
    told = json.loads(process.stdout)
    if memory != "any" and told["binding"] == "cpus":
        pytest.skip("the kernel refuses memory policies to this process")
    assert told["binding"] == binding
    assert told["policies"] == [policy.format(node)]


def test_a_policy_from_outside_is_seen_kept_with_any_memory_and_replaced_with_another() -> None:
    """One binding around another, as numactl around `numoe serve`; what both leave is found by read_topology."""
    node, cpu = node_and_cpu()
    binding = [sys.executable, "-m", "numoe.worker.placing.binding"]
    seeing = "from numoe.model.machine.topology_reading import read_topology; print(read_topology().policy)"
    outside = [*binding, f"interleave:{node}", str(cpu)]
    told = []
    for inside in ("any", str(node)):
        command = [*outside, *binding, inside, str(cpu), sys.executable, "-c", seeing]
        told.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    if "default" in "".join(told):
        pytest.skip("the kernel refuses memory policies to this process")
    assert told == [f"MemoryPolicy(kind='{kind}', nodes=({node},))\n" for kind in ("interleave", "bind")]


def test_the_program_gets_its_arguments_and_gives_its_exit_code() -> None:
    node, cpu = node_and_cpu()
    process = run_bound(node, cpu, "/bin/sh", "-c", 'echo "$1"; exit 7', "sh", "two words")
    assert process.returncode == 7
    assert process.stdout == "two words\n"


def test_the_program_takes_the_place_of_the_wrapper() -> None:
    node, cpu = node_and_cpu()
    command = [sys.executable, "-m", "numoe.worker.placing.binding", str(node), str(cpu), "/bin/sh", "-c", "echo $$"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read() == f"{process.pid}\n"


@pytest.mark.parametrize("also_one_that_is_there", [False, True])
def test_a_cpu_that_may_not_be_used_is_refused_in_one_line(also_one_that_is_there: bool) -> None:
    node, cpu = node_and_cpu()
    wanted = f"{cpu},9999" if also_one_that_is_there else "9999"
    process = run_bound(node, wanted, "/bin/true")
    allowed = sorted(os.sched_getaffinity(0))
    assert process.returncode == 1
    assert process.stderr == f"cannot run on CPUs {wanted}: [9999] are not among the allowed {allowed}\n"


def test_a_program_that_is_not_there_is_named_in_one_line() -> None:
    node, cpu = node_and_cpu()
    absent = run_bound(node, cpu, "/no/such/program")
    assert absent.returncode == 1
    assert absent.stderr == f"cannot run /no/such/program on CPUs {cpu}: [Errno 2] No such file or directory\n"


def test_a_node_that_is_not_there_leaves_the_memory_unbound_and_says_so() -> None:
    _, cpu = node_and_cpu()
    process = run_bound(1000, cpu, "/bin/sh", "-c", "echo $NUMOE_BINDING")
    assert process.stdout == "cpus\n"


def test_too_few_arguments_show_the_usage() -> None:
    process = run_bound(0, 0)
    assert process.returncode == 1
    assert process.stderr == "usage: python -m numoe.worker.placing.binding MEMORY CPUS PROGRAM [ARGUMENT ...]\n"
