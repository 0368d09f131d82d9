"""The pods are given what numoe needs, ask for its health where it tells of it, and may do little else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from numoe.coordinator.api.http import routes
from numoe.coordinator.cluster.host_state import HostPorts
from numoe.coordinator.cluster.ray_node import OBJECT_STORE_BYTES
from numoe.coordinator.commands.main import app
from numoe.coordinator.process.life import END_SECONDS
from numoe.coordinator.settings import http_address
from tests.deploy.kubernetes.manifests import (
    GRPC,
    HTTP,
    MEMBERS,
    ON_HOSTS,
    SERVING,
    Pod,
    amount,
    each_member,
    each_pod,
    each_serving,
    numoe_commands,
    objects,
    settings,
)


@each_pod
def test_commands_take_the_flags_that_they_are_given(pod: Pod) -> None:
    every = [words for container in pod.containers for words in numoe_commands(container)]
    assert {words[0] for words in every} <= {"serve", "host"}
    for words in every:
        app.parse_args(words, print_error=False, exit_on_error=False)
        with pytest.raises(CycloptsError, match="misspelt"):
            app.parse_args([*words, "--misspelt=1"], print_error=False, exit_on_error=False)


@each_serving
def test_the_ports_are_those_of_the_program_and_open_to_others(pod: Pod) -> None:
    listen = settings(pod).listen
    assert (listen.address, http_address(listen)) == (f"0.0.0.0:{GRPC}", f"0.0.0.0:{HTTP}")
    assert listen.insecure
    told = {port["containerPort"] for port in pod.main["ports"]}
    assert {GRPC, HTTP} <= told
    [clients] = [one for one in objects(pod.folder) if one["kind"] == "Service" and one["metadata"]["name"] == "numoe"]
    assert [port["port"] for port in clients["spec"]["ports"]] == [GRPC]


@each_serving
def test_health_is_asked_where_it_is_told(pod: Pod) -> None:
    start, live, ready = pod.probes
    told = re.findall(r'HttpRoute\(Role\.OPEN, "GET", "(/\w+)"', Path(routes.__file__).read_text())
    http = {port["name"] for port in pod.main["ports"] if port["containerPort"] == HTTP}
    for probe in (start, live):
        assert probe["httpGet"]["path"] in told
        assert {probe["httpGet"]["port"]} == http
        assert probe["httpGet"]["path"] != "/readyz", "a service that loads its model is alive"
    assert ready["grpc"]["port"] == GRPC


@each_pod
def test_nothing_but_a_pod_s_own_variables_is_read_as_flags(pod: Pod) -> None:
    """A Service numoe would make NUMOE_PORT, which is a flag of `numoe host start`."""
    assert pod.spec["enableServiceLinks"] is False
    assert not [one["name"] for one in pod.main["env"] if one["name"].startswith("NUMOE_")]


@each_serving
def test_a_pod_is_given_the_time_that_draining_takes(pod: Pod) -> None:
    pause = pod.main["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = pause + settings(pod).engine.drain_timeout_seconds + END_SECONDS
    assert pod.spec["terminationGracePeriodSeconds"] > needed
    for member in (one for one in MEMBERS if one.folder == pod.folder):
        stays = member.main["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert stays >= needed, "requests that the head drains need the members"
        assert member.spec["terminationGracePeriodSeconds"] > stays + END_SECONDS


@pytest.mark.parametrize("folder", ON_HOSTS)
def test_as_many_hosts_are_started_as_the_service_waits_for(folder: str) -> None:
    [head] = [pod for pod in SERVING if pod.folder == folder]
    replicas = [
        group["replicas"]
        for found in objects(folder)
        for group in (found["spec"].get("workerGroupSpecs", [found["spec"]]) if "spec" in found else [])
        if "replicas" in group
    ]
    heads = 0 if folder == "kuberay" else 1
    assert settings(head).workers.hosts == str(1 + sum(replicas) - heads)


@each_member
def test_members_join_the_head_by_a_name_that_there_is(pod: Pod) -> None:
    [words] = pod.commands
    [join] = [word.removeprefix("--join=") for word in words if word.startswith("--join=")]
    services = [one["metadata"]["name"] for one in objects(pod.folder) if one["kind"] == "Service"]
    if pod.folder == "kuberay":
        services = [f"{one['metadata']['name']}-head-svc" for one in objects("kuberay") if one["kind"] == "RayCluster"]
    name, _, port = join.rpartition(":")
    assert name in services
    assert int(port) == HostPorts().gcs
    assert [one["containerPort"] for one in pod.main["ports"]] == [HostPorts().raylet]


@each_pod
def test_pods_are_guaranteed_and_have_whole_cores(pod: Pod) -> None:
    for container in pod.containers:
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert set(resources["limits"]) == {"cpu", "memory"}, "numoe takes transparent huge pages, no others"
    cpus = amount(pod.main["resources"]["limits"]["cpu"])
    assert cpus == int(cpus)
    assert cpus % 2 == 0, "the kubelet gives whole cores, of two CPUs each"
    for container in pod.containers[:-1]:
        assert amount(container["resources"]["limits"]["cpu"]) < 1, "what ends before the rest needs no core of its own"


@each_pod
def test_the_memory_covers_what_lies_in_memory_volumes(pod: Pod) -> None:
    limit = amount(pod.main["resources"]["limits"]["memory"])
    sizes = {
        volume["name"]: amount(volume["emptyDir"]["sizeLimit"])
        for volume in pod.spec["volumes"]
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    }
    assert sizes["shm"] > OBJECT_STORE_BYTES
    assert sum(sizes.values()) < limit / 100
    assert {"name": "shm", "mountPath": "/dev/shm"} in pod.main["volumeMounts"]


@each_pod
def test_a_container_may_do_little(pod: Pod) -> None:
    user = pod.spec["securityContext"]
    assert user["runAsNonRoot"]
    assert user["runAsUser"] == 10001
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod.spec["automountServiceAccountToken"] is False
    for container in pod.containers:
        may = container["securityContext"]
        assert not may["allowPrivilegeEscalation"]
        assert may["readOnlyRootFilesystem"]
        assert may["capabilities"]["drop"] == ["ALL"]
        assert may["capabilities"].get("add", []) == (["SYS_NICE"] if container is pod.main else [])


@each_pod
def test_what_numoe_writes_has_a_place(pod: Pod) -> None:
    writable = {mount["mountPath"] for mount in pod.main["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/var/cache", "/dev/shm"}
    told = {one["name"]: one.get("value") for one in pod.main["env"]}
    assert (told["HOME"], told["XDG_CACHE_HOME"]) == ("/tmp", "/var/cache")


def test_the_head_looks_for_its_host_where_that_tells_of_itself() -> None:
    for pod in (one for one in SERVING if one.folder in ON_HOSTS):
        [script] = pod.main["args"]
        user = pod.spec["securityContext"]["runAsUser"]
        assert set(re.findall(r"/tmp/\S+\.json", script)) == {f"/tmp/numoe-{user}/host.json"}
