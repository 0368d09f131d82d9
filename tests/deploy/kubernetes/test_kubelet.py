"""The kubelet's settings are those that pods of whole cores need, for the host that they are made for.

No package has the schema of KubeletConfiguration: its fields are named here, as Kubernetes documents them.
"""

from __future__ import annotations

import re

import yaml

from tests.deploy.kubernetes.manifests import SHIPPED, Pod, amount, each_pod

KUBELET = yaml.safe_load((SHIPPED / "kubelet.yaml").read_text())


def test_kubelet_s_policies_are_those_that_pods_of_whole_cores_need() -> None:
    assert {name: KUBELET[name] for name in KUBELET if name.endswith("Policy")} == {
        "cpuManagerPolicy": "static",
        "memoryManagerPolicy": "Static",
        "topologyManagerPolicy": "restricted",
    }
    assert KUBELET["cpuManagerPolicyOptions"] == {"full-pcpus-only": "true", "distribute-cpus-across-numa": "true"}
    assert set(KUBELET) == {
        *("apiVersion", "kind", "cpuManagerPolicy", "cpuManagerPolicyOptions", "memoryManagerPolicy"),
        *("topologyManagerPolicy", "topologyManagerScope", "reservedSystemCPUs"),
        *("kubeReserved", "systemReserved", "evictionHard", "reservedMemory"),
    }
    assert KUBELET["kind"] == "KubeletConfiguration"
    assert KUBELET["apiVersion"] == "kubelet.config.k8s.io/v1beta1"


def test_kubelet_s_other_reasons_to_evict_are_its_own() -> None:
    """It takes none of its defaults once one is named."""
    others = {name: value for name, value in KUBELET["evictionHard"].items() if name != "memory.available"}
    assert others == {"nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%"}


def test_what_kubelet_reserves_of_nodes_is_what_it_reserves_in_all() -> None:
    """Or it does not start."""
    of_nodes = [amount(one["limits"]["memory"]) for one in KUBELET["reservedMemory"]]
    in_all = [KUBELET["kubeReserved"]["memory"], KUBELET["systemReserved"]["memory"]]
    in_all.append(KUBELET["evictionHard"]["memory.available"])
    assert sum(of_nodes) == sum(map(amount, in_all))
    assert len({one["numaNode"] for one in KUBELET["reservedMemory"]}) == 2


@each_pod
def test_a_pod_fits_the_host_of_the_kubelet_s_file(pod: Pod) -> None:
    text = (SHIPPED / "kubelet.yaml").read_text()
    told = re.search(r"two nodes of (\d+) cores and (\d+) GiB", text)
    assert told is not None
    reserved = len(KUBELET["reservedSystemCPUs"].split(","))
    nodes = 1 if pod.folder == "one-numa-node" else 2
    cpus, memory = (amount(pod.main["resources"]["limits"][name]) for name in ("cpu", "memory"))
    assert cpus / nodes <= 2 * int(told[1]) - reserved
    of_nodes = [amount(one["limits"]["memory"]) for one in KUBELET["reservedMemory"]]
    assert memory / nodes < int(told[2]) * 2**30 - max(of_nodes)
