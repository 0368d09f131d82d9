"""Who may reach the pods, and who may end them: for ports, the tables of README.md and the program say the same."""

from __future__ import annotations

import re

from numoe.coordinator.cluster.host_state import HostPorts
from tests.deploy.kubernetes.manifests import (
    GRPC,
    HTTP,
    ON_HOSTS,
    PODS,
    SERVING,
    SHIPPED,
    Json,
    Pod,
    each_folder,
    each_pod,
    objects,
)


def rules(folder: str, pod: Pod, direction: str) -> list[Json]:
    """Of all policies that are about a pod."""
    about = [one["spec"] for one in objects(folder) if one["kind"] == "NetworkPolicy"]
    about = [one for one in about if one["podSelector"]["matchLabels"].items() <= pod.labels.items()]
    assert any(direction.title() in one["policyTypes"] for one in about)
    return [rule for one in about for rule in one.get(direction, [])]


def opened(rule: Json) -> set[int]:
    """The ports that a rule opens."""
    every = rule["ports"]
    return {port for one in every for port in range(one["port"], one.get("endPort", one["port"]) + 1)}


def ports_of_the_table() -> set[int]:
    """Those that README.md lists of each host."""
    text = (SHIPPED.parents[1] / "README.md").read_text()
    table = text[text.index("What listens on each host, counted on from") :]
    table = table[table.index("|---") : table.index("\n\nA worker")]
    found: set[int] = set()
    for row in table.splitlines()[1:]:
        cell = row.split("|")[1]
        numbers = [int(number) for number in re.findall(r"\+(\d+)", cell)]
        found |= set(range(numbers[0], numbers[1] + 1)) if " to " in cell else set(numbers)
    return {HostPorts().first + number for number in found}


@each_pod
def test_a_port_is_open_to_those_alone_who_need_it(pod: Pod) -> None:
    hosts, clients, metrics = {"app": "numoe"}, {"numoe-client": "true"}, {"kubernetes.io/metadata.name": "monitoring"}
    found: dict[str, set[int]] = {}
    for rule in rules(pod.folder, pod, "ingress"):
        [who] = rule["from"]
        [selector] = who.values()
        found[str(selector["matchLabels"])] = opened(rule)
    expected = {str(clients): {GRPC}, str(metrics): {HTTP}} if pod in SERVING else {}
    if pod.folder in ON_HOSTS:
        expected[str(hosts)] = ports_of_the_table()
    assert found == expected


@each_pod
def test_a_pod_asks_nobody_but_its_hosts_and_for_their_names(pod: Pod) -> None:
    every = [opened(rule) for rule in rules(pod.folder, pod, "egress")]
    assert every == ([ports_of_the_table(), {53}] if pod.folder in ON_HOSTS else [])


def test_the_table_s_ports_are_the_program_s() -> None:
    ports = HostPorts()
    one_by_one = {ports.gcs, ports.raylet, ports.objects, ports.environments, ports.stream}
    assert ports_of_the_table() == one_by_one | set(range(ports.workers[0], ports.workers[1] + 1))


@each_folder
def test_no_pod_is_evicted_while_it_serves(folder: str) -> None:
    [budget] = [one["spec"] for one in objects(folder) if one["kind"] == "PodDisruptionBudget"]
    every = [pod for pod in PODS if pod.folder == folder]
    assert all(budget["selector"]["matchLabels"].items() <= pod.labels.items() for pod in every)
    assert budget.get("maxUnavailable") == 0 or budget["minAvailable"] == len(every)
