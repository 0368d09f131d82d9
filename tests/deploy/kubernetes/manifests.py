"""What deploy/kubernetes/ ships, read as `kubectl apply -k` would apply it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from numoe.coordinator.commands.main import app
from numoe.coordinator.settings import ListenSettings, ServeSettings, http_address

Json = Any  # of an object of Kubernetes

SHIPPED = Path(__file__).parents[3] / "deploy" / "kubernetes"
FOLDERS = ("one-host", "one-numa-node", "several-hosts", "kuberay")
GRPC, HTTP = (int(one.rpartition(":")[2]) for one in (ListenSettings().address, http_address(ListenSettings())))
UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that a folder makes."""

    folder: str
    labels: dict[str, str]
    spec: Json

    @property
    def main(self) -> Json:
        """Its container, of which there is one."""
        [container] = self.spec["containers"]
        return container

    @property
    def containers(self) -> list[Json]:
        """All, those that run before it included."""
        return [*self.spec.get("initContainers", []), self.main]

    @property
    def probes(self) -> list[Json]:
        """Of its container: at the start, whether it lives, and whether it is ready."""
        return [self.main[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")]

    @property
    def commands(self) -> list[list[str]]:
        """The words behind `numoe` of all that its container runs."""
        return numoe_commands(self.main)


def objects(folder: str) -> list[Json]:
    """All that a folder's kustomization makes. Of kustomize it knows what is used here; a test compares."""
    told = yaml.safe_load((SHIPPED / folder / "kustomization.yaml").read_text())
    found: list[Json] = []
    for name in told["resources"]:
        path = SHIPPED / folder / name
        found += objects(name.removeprefix("../")) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for patch in told.get("patches", []):
        [target] = [one for one in found if is_target(one, patch["target"])]
        for operation in yaml.safe_load(patch["patch"]):
            replace_at(target, operation)
    for one in found:
        if "namespace" in told and one["kind"] != "Namespace":
            one["metadata"]["namespace"] = told["namespace"]
        for image in told.get("images", []):
            name_image(one, image["name"], f"{image['name']}:{image['newTag']}")
    return found


def is_target(found: Json, target: Json) -> bool:
    return bool(found["kind"] == target["kind"] and found["metadata"]["name"] == target["name"])


def name_image(found: Json, name: str, full: str) -> None:
    """Name the image of a version wherever one is named."""
    if isinstance(found, dict) and found.get("image") == name:
        found["image"] = full
    for part in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        name_image(part, name, full)


def replace_at(found: Json, operation: Json) -> None:
    """Obey one operation of a JSON patch, which must replace something."""
    assert operation["op"] == "replace"
    *parents, last = operation["path"].lstrip("/").split("/")
    for name in parents:
        found = found[int(name) if isinstance(found, list) else name]
    assert last in found, operation["path"]
    found[last] = operation["value"]


def templates(folder: str) -> Iterator[Json]:
    """The pod templates of a folder."""
    for found in objects(folder):
        if found["kind"] == "RayCluster":
            groups = [found["spec"]["headGroupSpec"], *found["spec"]["workerGroupSpecs"]]
            yield from (group["template"] for group in groups)
        elif "template" in found.get("spec", {}):
            yield found["spec"]["template"]


def pods(folder: str) -> list[Pod]:
    return [Pod(folder, one["metadata"]["labels"], one["spec"]) for one in templates(folder)]


PODS = [pod for folder in FOLDERS for pod in pods(folder)]
SERVING = [pod for pod in PODS if pod.labels.get("role") != "member"]
MEMBERS = [pod for pod in PODS if pod not in SERVING]
ON_HOSTS = ("several-hosts", "kuberay")

each_folder = pytest.mark.parametrize("folder", FOLDERS)
each_pod = pytest.mark.parametrize("pod", PODS, ids=lambda pod: f"{pod.folder}-{pod.labels.get('role', 'pod')}")
each_serving = pytest.mark.parametrize("pod", SERVING, ids=lambda pod: pod.folder)
each_member = pytest.mark.parametrize("pod", MEMBERS, ids=lambda pod: pod.folder)


def numoe_commands(container: Json) -> list[list[str]]:
    """The words behind `numoe` of what a container runs, of a script line by line."""
    if "command" not in container:
        return [container["args"]]
    [script] = container["args"]
    lines = script.replace("\\\n", " ").splitlines()
    found = [re.search(r"\bnumoe (.*?)( &)?$", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match]


def amount(text: str) -> float:
    """A quantity of Kubernetes as a number, such as 500m and 2Gi."""
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    assert match is not None, text
    return int(match[1]) * UNITS[match[2]]


def settings(pod: Pod) -> ServeSettings:
    """What the service of a pod would run with, as the program reads it."""
    [words] = [words for words in pod.commands if words[0] == "serve"]
    _, bound, _ = app.parse_args(words)
    found = bound.arguments["settings"]
    assert isinstance(found, ServeSettings)
    return found
