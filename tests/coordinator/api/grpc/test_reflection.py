"""A client that knows nothing but reflection lists every service and calls every method, as grpcurl does."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from numoe.coordinator.api.grpc.roles import ROLES
from numoe.coordinator.profiling.taking import RunningProfile
from numoe.protos.errors import Unavailable
from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, FakeWorkers, running_server
from tests.coordinator.tiny_tokenizer import LETTERS

ENDING = "/numoe.v1.OperationsService/Drain"  # after which nothing else is answered
UNWORKABLE = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)


def call_all(address: str) -> dict[str, grpc.StatusCode]:
    """How a call of each method with an empty message ends, or OK once there is an answer."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        found = [pool.FindServiceByName(name) for name in database.get_services()]
        methods = {f"/{one.full_name}/{method.name}": method for one in found for method in one.methods}
        return {path: end_of(channel, path, methods[path]) for path in sorted(methods, key=ENDING.__eq__)}


def end_of(channel: grpc.Channel, path: str, method: Any) -> grpc.StatusCode:
    request = GetMessageClass(method.input_type)
    call = channel.stream_stream(path, request.SerializeToString, GetMessageClass(method.output_type).FromString)
    answers: Any = call(iter([request()]), timeout=PATIENCE_SECONDS)
    try:
        next(answers, None)
    except grpc.RpcError as error:
        return error.code()
    finally:
        answers.cancel()
    return grpc.StatusCode.OK


class Unprofiled(FakeWorkers):
    """Fake workers that can be asked for a profile."""

    def begin_profile(self, level: int) -> RunningProfile:
        raise Unavailable("these compute nothing")


async def test_reflection_lists_all_and_all_can_be_called() -> None:
    async with running_server(Unprofiled(LETTERS)) as running:
        ends = await asyncio.to_thread(call_all, running.ready.address)
    assert set(ends) == set(ROLES)
    assert {path: code for path, code in ends.items() if code in UNWORKABLE} == {}
