"""The stream to the host that runs the next layers: steps go there, answers come back.

Both sides send a beat where they have nothing to say, so that a process that hangs and a wire that is cut look alike:
silence. A process that dies ends the stream at once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.cluster.certificates import HostCredentials
from numoe.coordinator.stages.step_messages import read_answer, write_step
from numoe.protos.errors import ServiceError, WorkerLost
from numoe.protos.messages import Step, StepResult
from numoe.v1 import stage_pb2 as pb
from numoe.v1 import stage_pb2_grpc

BEAT_SECONDS = 0.1
LATE_SECONDS = 0.4  # of silence: something is wrong
SILENT_SECONDS = 3.0  # of silence, after which the host is given up


@dataclass(frozen=True, slots=True)
class Wire:
    """How the streams of one service go."""

    version: str  # of numoe, on both ends
    service: str  # by which hosts know whom they belong to
    message_bytes: int  # of the largest step
    credentials: HostCredentials | None = None  # this host's own; None: unencrypted

    def options(self) -> list[tuple[str, int]]:
        """Of channels and servers."""
        return [
            ("grpc.max_send_message_length", self.message_bytes),
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.use_local_subchannel_pool", 1),  # or a channel opened anew waits as long as the last one would
            ("grpc.enable_http_proxy", 0),
        ]

    def channel(self, address: str) -> grpc.Channel:
        """To a host of the service."""
        if self.credentials is None:
            return grpc.insecure_channel(address, self.options())
        return grpc.secure_channel(address, self.credentials.client(), self.options())


class StageLink:
    """One stream, from its opening to its end; `lost` is called once, by any thread, if that was not wanted."""

    def __init__(
        self,
        wire: Wire,
        hosts: tuple[str, ...],
        answered: Callable[[StepResult], None],
        lost: Callable[[WorkerLost], None],
    ) -> None:
        """`hosts`: addresses, of the next one and of those after it; `answered` is called by a thread of the link."""
        self._address, self._answered, self._lost = hosts[0], answered, lost
        self._outgoing: queue.SimpleQueue[pb.RunRequest | None] = queue.SimpleQueue()
        self._opened, self._over = threading.Event(), threading.Event()
        self._heard = time.monotonic()
        self._problem: WorkerLost | None = None
        self._lock = threading.Lock()
        self._channel = wire.channel(self._address)
        opening = pb.StageOpening(version=wire.version, service=wire.service, hosts=hosts[1:])
        self._outgoing.put(pb.RunRequest(opening=opening))
        self._call = stage_pb2_grpc.StageServiceStub(self._channel).Run(self._requests())
        threading.Thread(target=self._read, name="numoe-link", daemon=True).start()

    def wait_open(self, seconds: float) -> None:
        """Wait until this host and all after it are there. Raises WorkerLost."""
        end = time.monotonic() + seconds
        while not self._opened.wait(BEAT_SECONDS):
            self.check()
            if time.monotonic() > end:
                self._give_up(f"host {self._address} did not answer within {seconds:.0f} s")
        self.check()

    @property
    def late(self) -> float:
        """Seconds of silence, once they are more than there should be; else 0."""
        silent = time.monotonic() - self._heard
        return silent if silent > LATE_SECONDS else 0.0

    def check(self) -> None:
        """Raise WorkerLost where the stream has ended, or is silent for too long."""
        if self._problem is None and self._opened.is_set() and time.monotonic() - self._heard > SILENT_SECONDS:
            self._give_up(f"host {self._address} is silent for {SILENT_SECONDS:.0f} s")
        if self._problem is not None:
            raise self._problem

    def send(self, step: Step, hidden: NDArray[np.float32]) -> None:
        """Hand a step on, with the rows that the layers so far made of its tokens."""
        self._outgoing.put(pb.RunRequest(step=write_step(step, hidden)))

    def close(self) -> None:
        """End the stream; nothing is called any more."""
        self._over.set()
        self._outgoing.put(None)
        self._call.cancel()
        self._channel.close()

    def _requests(self) -> Iterator[pb.RunRequest]:
        """What goes out, by a thread of gRPC's."""
        while not self._over.is_set():
            try:
                request = self._outgoing.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                request = pb.RunRequest(beat=pb.StageBeat())
            if request is None:
                return
            yield request

    def _read(self) -> None:
        try:
            for response in self._call:
                self._heard = time.monotonic()
                kind = response.WhichOneof("kind")
                if kind == "answer":
                    self._answered(read_answer(response.answer))
                elif kind == "opened":
                    self._opened.set()
                elif kind == "failure":
                    failure = response.failure
                    self._give_up(f"host {failure.host}: {failure.error}", tuple(failure.workers))
                    return
            self._give_up(f"host {self._address} ended")
        except grpc.RpcError as error:
            self._give_up(f"host {self._address}: {error.details() or error.code().name}")
        except ServiceError as error:
            self._give_up(str(error))

    def _give_up(self, problem: str, workers: tuple[int, ...] = ()) -> None:
        with self._lock:
            if self._problem is not None or self._over.is_set():
                return
            self._problem = WorkerLost(problem, workers)
        self._call.cancel()
        self._lost(self._problem)
