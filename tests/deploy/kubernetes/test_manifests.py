"""The manifests are what Kubernetes, kustomize and Ray take, each in its own words."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from numoe.coordinator.cluster.host_state import HostPorts
from tests.deploy.kubernetes.manifests import (
    GRPC,
    SHIPPED,
    Json,
    Pod,
    each_folder,
    each_pod,
    objects,
    pods,
    templates,
)

VERSIONS = ("1.30", kubernetes_validate.latest_version())  # 1.30 is the first whose preStop can sleep


def check(found: Json, kubernetes: str) -> None:
    """Raises ValidationError: Kubernetes knows no such object, or not such a field of it."""
    kubernetes_validate.validate(found, kubernetes, strict=True)


def checkable(folder: str) -> Iterator[Json]:
    """All objects that Kubernetes itself defines, and pod templates, which may lie in one that it does not."""
    for found in objects(folder):
        if found["kind"] != "RayCluster":
            yield found
    for template in templates(folder):
        yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "template"}, "template": template}


@pytest.mark.parametrize("kubernetes", VERSIONS)
@each_folder
def test_kubernetes_knows_every_field(folder: str, kubernetes: str) -> None:
    every = list(checkable(folder))
    assert {"Namespace", "Service", "PodDisruptionBudget", "NetworkPolicy", "PodTemplate"} <= {
        one["kind"] for one in every
    }
    for found in every:
        check(found, kubernetes)


@each_folder
def test_a_field_that_kubernetes_does_not_know_is_noticed(folder: str) -> None:
    for found in checkable(folder):
        places = [found, found["metadata"], found.get("spec")]
        if "template" in found:
            [container] = found["template"]["spec"]["containers"]
            places += [found["template"]["spec"], container, container["readinessProbe"], container["securityContext"]]
        for place in filter(None, places):
            place["misspelt"] = 1
            with pytest.raises(kubernetes_validate.ValidationError, match="misspelt"):
                check(found, VERSIONS[-1])
            del place["misspelt"]
        check(found, VERSIONS[-1])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here to put the folders together")
@each_folder
def test_kustomize_makes_of_a_folder_what_these_tests_look_at(folder: str) -> None:
    made = subprocess.run(["kubectl", "kustomize", str(SHIPPED / folder)], capture_output=True, text=True, check=True)
    expected, found = (
        {(one["kind"], one["metadata"]["name"]): one for one in every}
        for every in (objects(folder), yaml.safe_load_all(made.stdout))
    )
    assert found == expected


@each_folder
def test_the_image_is_of_this_version(folder: str) -> None:
    images = {container["image"] for pod in pods(folder) for container in pod.containers}
    assert images == {f"numoe:{version('numoe')}"}


@each_folder
def test_what_selects_pods_finds_them(folder: str) -> None:
    """Each selector some pod of the folder, and each controller those that it makes."""
    labels, selectors = [pod.labels for pod in pods(folder)], 0
    for found in objects(folder):
        spec = found.get("spec", {})
        for selector in (spec.get("selector"), spec.get("podSelector")):
            if selector is None:
                continue
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= one.items() for one in labels), found["metadata"]["name"]
            if "template" in spec:
                assert wanted.items() <= spec["template"]["metadata"]["labels"].items()
            selectors += 1
    assert selectors >= 3


@each_pod
def test_names_within_a_pod_are_of_something(pod: Pod) -> None:
    volumes = {volume["name"] for volume in pod.spec["volumes"]}
    assert {mount["name"] for container in pod.containers for mount in container["volumeMounts"]} == volumes
    ports = {port["name"] for port in pod.main["ports"]}
    for probe in pod.probes:
        [asked] = [probe[how] for how in ("httpGet", "tcpSocket", "grpc") if how in probe]
        assert asked["port"] in {*ports, GRPC}


# ---- KubeRay, whose schema no package has: its pods are checked above, and all else is named here


def ray_cluster() -> Json:
    [found] = [one for one in objects("kuberay") if one["kind"] == "RayCluster"]
    return found


def test_the_ray_cluster_says_what_kuberay_reads_and_no_more() -> None:
    found = ray_cluster()
    assert found["apiVersion"] == "ray.io/v1"
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(found["spec"]) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert set(found["spec"]["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in found["spec"]["workerGroupSpecs"]:
        assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"], "a model's hosts do not come and go"


def test_kuberay_starts_numoe_and_not_ray() -> None:
    """And what it starts itself, `ray health-check`, finds the head and has the token."""
    found = ray_cluster()
    assert found["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    assert found["spec"]["rayVersion"] == ray.__version__
    assert found["spec"]["headGroupSpec"]["rayStartParams"] == {"port": str(HostPorts().gcs)}
    [pod, _] = pods("kuberay")
    [secret] = [volume["secret"]["secretName"] for volume in pod.spec["volumes"] if "secret" in volume]
    assert found["spec"]["authOptions"] == {"mode": "token", "secretName": secret}
    [script] = pod.spec["initContainers"][0]["args"]
    assert "/auth_token " in script, "the key under which KubeRay reads the token"


def test_ray_reads_one_head_and_one_member() -> None:
    read = _derive_autoscaling_config_from_ray_cr(copy.deepcopy(ray_cluster()))
    groups = {name: (one["min_workers"], one["max_workers"]) for name, one in read["available_node_types"].items()}
    assert groups == {"headgroup": (0, 0), "members": (1, 1)}
