"""The Open Inference Protocol's service, by its own messages: what it refuses, and what it shares with Generate."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from numoe.oip.open_inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ServerLiveRequest,
    ServerReadyRequest,
)
from numoe.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    Running,
    ask,
    fake_workers,
    generated,
    info_of,
    running_server,
    until,
)
from tests.coordinator.api.grpc.test_limits import settings_for
from tests.coordinator.engine.serving import Gate

MODEL = "tiny qwen3moe"


def stub_of(running: Running) -> Any:
    return GRPCInferenceServiceStub(running.channel)


def request(text: bytes = b"hello", stops: tuple[bytes, ...] = (), **parameters: InferParameter) -> ModelInferRequest:
    how = {"max_tokens": InferParameter(int64_param=8), "ignore_eos": InferParameter(bool_param=True)} | parameters
    message = ModelInferRequest(model_name=MODEL, parameters=how)
    for name, texts in (("text_input", (text,)), ("stop", stops)):
        if texts:
            tensor = message.inputs.add(name=name, datatype="BYTES", shape=[len(texts)])
            tensor.contents.bytes_contents.extend(texts)
    return message


async def infer(running: Running, message: ModelInferRequest) -> Any:
    return await stub_of(running).ModelInfer(message, timeout=PATIENCE_SECONDS)


def text_of(response: Any) -> str:
    [output] = response.outputs
    [text] = output.contents.bytes_contents
    return str(text, "utf-8")


async def test_contents_are_answered_with_contents_and_an_answer_ends_at_any_of_its_stops() -> None:
    async with running_server() as running:
        whole = await infer(running, request())
        text = text_of(whole)
        stops = (b"not there", text[3:5].encode())
        stopped = await infer(running, request(stops=stops))
        plain = request(stop=InferParameter(string_param=text[3:5]))
        assert text_of(stopped) == text_of(await infer(running, plain)) == text[: text.index(text[3:5])]
    assert not whole.raw_output_contents
    assert whole.outputs[0].shape == [1]
    assert stopped.parameters["finish_reason"].string_param == "stop"
    assert whole.parameters["completion_tokens"].int64_param == 8


FAULTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"inputs": []}, "inputs: are without text_input"),
    ({"text": b"\xff"}, "inputs[0]: holds no UTF-8 from byte 0 on"),
    ({"shape": [2]}, "inputs[0].shape: is [2]; expected [1] or [1, 1]"),
    ({"shape": [-1, 1]}, "inputs[0].shape: is [-1, 1]"),
    ({"shape": [1] * 100_000}, "inputs[0].shape: is [1, 1, 1, 1]"),
    ({"shape": []}, "inputs[0].shape: is []"),
    ({"datatype": "INT32"}, "inputs[0].datatype: is 'INT32'; expected BYTES"),
    ({"name": "image"}, "inputs[0].name: is 'image'"),
    ({"raw": [b"\x05\0\0\0hello", b""]}, "raw_input_contents: are 2"),
    ({"raw": [b"\x05\0\0\0hello"]}, "inputs[0].contents: is there beside raw_input_contents"),
    ({"raw": [b"\x06\0\0\0hello"], "contents": False}, "inputs[0]: does not hold the 1 elements"),
    ({"raw": [b"\x04\0\0\0hello"], "contents": False}, "inputs[0]: does not hold the 1 elements"),
    ({"raw": [b"\x04"], "contents": False}, "inputs[0]: does not hold the 1 elements"),
    ({"contents": False}, "inputs[0]: does not hold the 1 elements"),
    ({"output": "logits"}, "outputs[0].name: is 'logits'; expected text_output"),
    ({"parameters": {"temprature": InferParameter(double_param=1)}}, "parameters: have 'temprature'"),
    ({"parameters": {"top_k": InferParameter(double_param=1)}}, "parameters.top_k: is 1.0; expected a whole number"),
    ({"parameters": {"max_tokens": InferParameter(bool_param=True)}}, "parameters.max_tokens: is True"),
    ({"parameters": {"stop": InferParameter()}}, "parameters.stop: is None; expected a text"),
    ({"parameters": {"stop": InferParameter(string_param="")}}, "parameters.stop: has 0 bytes"),
    ({"parameters": {"stream": InferParameter(bool_param=True)}}, "parameters.stream: is true"),
    ({"id": "ü"}, "id: expected at most 128 printable ASCII characters"),
    ({"text": b"a" * 5000}, "text_input: "),
)


def changed(change: dict[str, Any]) -> ModelInferRequest:
    """A request with something else in its place."""
    message = request(**change.get("parameters", {}))
    [tensor] = message.inputs
    for name, value in change.items():
        match name:
            case "inputs":
                message.ClearField("inputs")
            case "text":
                tensor.contents.bytes_contents[0] = value
            case "shape":
                tensor.shape[:] = value
            case "datatype" | "name":
                setattr(tensor, name, value)
            case "raw":
                message.raw_input_contents.extend(value)
            case "contents":
                tensor.ClearField("contents")
            case "output":
                message.outputs.add(name=value)
            case "id":
                message.id = value
    return message


async def test_what_is_at_fault_is_named() -> None:
    async with running_server() as running:
        for change, problem in FAULTS:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await infer(running, changed(change))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, problem
            assert str(refused.value.details()).startswith(problem)


async def test_another_model_is_not_found() -> None:
    async with running_server() as running:
        for message in (ModelInferRequest(model_name="b"), ModelInferRequest(model_name=MODEL, model_version="2")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await infer(running, message)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            assert info_of(refused.value) == ("MODEL_NOT_FOUND", "numoe")
        with pytest.raises(grpc.aio.AioRpcError, match="this service serves 'tiny qwen3moe'"):
            await stub_of(running).ModelMetadata(ModelMetadataRequest(name="b"))


async def test_one_limit_bounds_what_is_open_of_both_services_and_a_streams_place_is_free_between_its_requests() -> (
    None
):
    gate = Gate(0)
    async with running_server(fake_workers(before_collect=gate), settings_for(1)) as running:
        stream = stub_of(running).ModelStreamInfer(timeout=PATIENCE_SECONDS)
        await stream.write(request())
        await until(lambda: sum(running.busy()[:2]) == 1)
        for asking in (generated(running, ask()), infer(running, request())):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asking
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        gate.open()
        answer = await stream.read()
        while not answer.infer_response.parameters["triton_final_response"].bool_param:
            answer = await stream.read()
        assert (await generated(running, ask())).finished
        await stream.write(request(stream=InferParameter(bool_param=False)))
        assert len(text_of((await stream.read()).infer_response)) == 8
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_a_stream_that_is_cancelled_frees_its_place() -> None:
    gate = Gate(0)
    async with running_server(fake_workers(before_collect=gate), settings_for(1)) as running:
        stream = stub_of(running).ModelStreamInfer()
        await stream.write(request())
        await until(lambda: sum(running.busy()[:2]) == 1)
        stream.cancel()
        gate.open()
        await until(lambda: running.busy() == (0, 0, 0))
        assert (await generated(running, ask())).finished


async def test_a_service_that_ends_lives_but_is_not_ready() -> None:
    gate = Gate(0)
    async with running_server(fake_workers(before_collect=gate)) as running:
        stub = stub_of(running)
        assert (await stub.ServerReady(ServerReadyRequest())).ready
        asking = asyncio.create_task(infer(running, request()))
        await until(lambda: running.busy()[0] == 1)
        running.coordinator.on_signal()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await stub.ServerReady(ServerReadyRequest())).ready:
                pass
        assert (await stub.ServerLive(ServerLiveRequest())).live
        assert not (await stub.ModelReady(ModelReadyRequest(name=MODEL))).ready
        gate.open()
        assert text_of(await asking)
