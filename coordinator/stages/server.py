"""What another host's coordinator, or stage before this one, reaches: the stream of steps for this host's workers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from numoe.coordinator.stages.link import BEAT_SECONDS, Wire
from numoe.coordinator.stages.session import StageSession, StepGroup
from numoe.coordinator.stages.step_messages import read_step, write_answer
from numoe.model.architectures.spec import ModelSpec
from numoe.protos.errors import NumoeError, ServiceError, SetupError, WorkerLost
from numoe.protos.messages import StepResult
from numoe.v1 import stage_pb2 as pb
from numoe.v1 import stage_pb2_grpc

STREAMS = 4  # at once: the one in use, and others that are about to notice that they are over
OPEN_SECONDS = 30.0  # for the hosts after this one to answer
STOP_SECONDS = 1.0
LISTEN_SECONDS, LISTEN_POLL_SECONDS = 20.0, 0.2

Responses = queue.SimpleQueue[pb.RunResponse]


class StageServer:
    """Listens for one stream at a time; a new one ends the one before."""

    def __init__(
        self,
        address: str,
        name: str,
        spec: ModelSpec,
        group: StepGroup,
        wire: Wire,
        step_timeout_seconds: float,
    ) -> None:
        """`address`: HOST:PORT, port 0: any; `name`: of this host, for people. Raises SetupError: it is taken."""
        self._name, self._spec, self._group, self._wire = name, spec, group, wire
        self._timeout = step_timeout_seconds
        self._session: StageSession | None = None
        self._opening = threading.Lock()
        pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="numoe-stream")
        self._server = grpc.server(pool, options=[*wire.options(), ("grpc.so_reuseport", 0)])
        stage_pb2_grpc.add_StageServiceServicer_to_server(_Servicer(self), self._server)
        self.address = f"{address.rpartition(':')[0]}:{self._listen(address)}"
        self._server.start()

    def _listen(self, address: str) -> int:
        """Returns the port. One that this host's process before, which was lost, still has is waited for."""
        end = time.monotonic() + LISTEN_SECONDS
        while True:
            try:
                if self._wire.credentials is None:
                    return self._server.add_insecure_port(address)
                return self._server.add_secure_port(address, self._wire.credentials.server())
            except RuntimeError as error:
                if time.monotonic() > end:
                    raise SetupError(f"{self._name} cannot listen on {address}: {error}") from error
                time.sleep(LISTEN_POLL_SECONDS)

    def end_session(self) -> None:
        """End the stream that is open, once the workers are done with their step; they are free for another use."""
        with self._opening:
            self._end_session()

    def close(self) -> None:
        """Listen no more."""
        self._server.stop(STOP_SECONDS).wait()
        self.end_session()

    def run(self, requests: Iterator[pb.RunRequest], context: grpc.ServicerContext) -> Iterator[pb.RunResponse]:
        """One stream: see stage.proto."""
        responses: Responses = queue.SimpleQueue()
        opening = next(requests, pb.RunRequest()).opening
        if (opening.version, opening.service) != (self._wire.version, self._wire.service):
            found = (
                f"found numoe {opening.version or '?'}, expected {self._wire.version}, and the service that began here"
            )
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{self._name}: {found}")
        try:
            session = self._open(tuple(opening.hosts), responses)
        except WorkerLost as lost:
            yield self._failure(lost)
            return
        reader = threading.Thread(
            target=self._read, args=(requests, session, responses), name="numoe-read", daemon=True
        )
        reader.start()
        try:
            yield pb.RunResponse(opened=pb.StageOpened())
            while context.is_active() and not session.over:
                try:
                    response = responses.get(timeout=BEAT_SECONDS)
                except queue.Empty:
                    response = pb.RunResponse(beat=pb.StageBeat())
                yield response
                if response.HasField("failure"):
                    return
        finally:
            session.close()

    def _open(self, hosts: tuple[str, ...], responses: Responses) -> StageSession:
        with self._opening:
            self._end_session()
            session = StageSession(
                self._group,
                self._spec.first_layer,
                self._timeout,
                lambda result: responses.put(_answer(result)),
                lambda lost: responses.put(self._failure(lost)),
            )
            session.open(self._wire, hosts, OPEN_SECONDS)
            self._session = session
            return session

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _read(self, requests: Iterator[pb.RunRequest], session: StageSession, responses: Responses) -> None:
        try:
            for request in requests:
                if request.HasField("step"):
                    session.run(*read_step(request.step, self._spec.width))
        except ServiceError as error:
            responses.put(self._failure(error))
        except grpc.RpcError:
            return  # the stream is over, which its other half sees

    def _failure(self, error: NumoeError) -> pb.RunResponse:
        workers = error.workers if isinstance(error, WorkerLost) else ()
        return pb.RunResponse(failure=pb.StageFailure(error=str(error), host=self._name, workers=workers))


class _Servicer(stage_pb2_grpc.StageServiceServicer):
    def __init__(self, server: StageServer) -> None:
        self._server = server

    def Run(  # noqa: N802  its name in the proto
        self, request_iterator: Iterator[pb.RunRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.RunResponse]:
        return self._server.run(request_iterator, context)


def _answer(result: StepResult) -> pb.RunResponse:
    return pb.RunResponse(answer=write_answer(result))
