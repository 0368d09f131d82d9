"""A host's part of a cluster of Ray's: the first host's node with the list of all, or one that joins it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numoe.coordinator.cluster import ray_node
from numoe.coordinator.cluster.host_state import HostPorts, HostState, read_state

# isort: split
import ray
import ray._private.node
from ray._private.parameter import RayParams

from numoe.coordinator.cluster.ray_node import OBJECT_STORE_BYTES, RayNode, watched_of, without_folders
from numoe.coordinator.workers.watching.survivors import kill_session
from numoe.protos.errors import ServiceError

NODE_SECONDS = 60.0  # for a node whose processes died to be there again
POLL_SECONDS = 0.1
UNITS = 64.0  # of "numaN" for each NUMA node: more than a node ever has workers, spare ones included
# After 5 s of silence a host counts as gone, for Ray: what it ran may be started elsewhere. Steps notice in less.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


def use_token(token: str) -> None:
    """Have Ray in this process, and in all that it starts, ask for and give this token."""
    os.environ["RAY_AUTH_TOKEN"] = token


class HostNode(RayNode):
    """Ray's processes of this host, in a cluster; this process is no driver of it."""

    def __init__(self, ip: str, ports: HostPorts, numa_nodes: Iterable[int], cluster: str | None) -> None:
        """`cluster`: ADDRESS:PORT of the first host's GCS; None: this is the first host."""
        super().__init__({f"numa{node}": UNITS for node in numa_nodes})
        self._ip, self._ports, self._cluster = ip, ports, cluster
        self._node: Any = None

    @property
    def cluster(self) -> str:
        """ADDRESS:PORT by which hosts join."""
        return self._cluster or f"{self._ip}:{self._ports.gcs}"

    @property
    def processes(self) -> dict[str, int]:
        """Pids, by their kind."""
        return dict(self._processes())

    def _begin(self) -> Path:
        os.environ.update(HEALTH)
        first, last = self._ports.workers
        place = {"gcs_server_port": self._ports.gcs} if self._cluster is None else {"gcs_address": self._cluster}
        options = RayParams(
            **place,
            node_ip_address=self._ip,
            node_manager_port=self._ports.raylet,
            object_manager_port=self._ports.objects,
            runtime_env_agent_port=self._ports.environments,
            min_worker_port=first,
            max_worker_port=last,
            num_cpus=last - first,
            resources=self._resources,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            temp_dir=str(ray_node.SESSIONS),
        )
        self._node = ray._private.node.Node(options, head=self._cluster is None, shutdown_at_exit=False)
        return Path(self._node.get_session_dir_path())

    def _processes(self) -> Mapping[str, int]:
        return watched_of(self._node)

    def _stop(self) -> None:
        node, self._node = self._node, None
        if node is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=True)

    def _kill_rest(self, folder: Path | None) -> None:
        if folder is not None:  # named after the first host's process
            kill_session(int(folder.name.rpartition("_")[2]), os.getsid(0))


def _wait_for_state(before: HostState) -> HostState:
    """The node of this host, which may be starting anew. Raises ServiceError: it does not come back."""
    end = time.monotonic() + NODE_SECONDS
    while (found := read_state()) is None:
        if time.monotonic() > end:
            raise ServiceError(f"the node of this host, `numoe host start` (pid {before.pid}), has ended")
        time.sleep(POLL_SECONDS)
    return found


class JoinedRay(RayNode):
    """This process's connection, as a driver, to the node that `numoe host start` runs on this host."""

    def __init__(self, state: HostState, token: str) -> None:
        super().__init__({})
        self._state, self._token = state, token

    def _begin(self) -> Path:
        self._state = _wait_for_state(self._state)
        use_token(self._token)
        ray.init(
            address=self._state.cluster,
            _node_ip_address=self._state.ip,
            job_config=without_folders(),
            log_to_driver=False,
            configure_logging=False,
        )
        return Path(self._state.session)

    def _processes(self) -> Mapping[str, int]:
        return self._state.processes

    def _hold(self, folder: Path) -> int:
        return -1

    def end(self, *, keep_logs: bool) -> None:
        """Disconnect; the folder is the node's, which lives on."""
        super().end(keep_logs=True)

    def _kill_rest(self, folder: Path | None) -> None:
        """Nothing: its processes are another's."""
