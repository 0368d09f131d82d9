"""`numoe serve` as its clients and its operator meet it: a real process, a real port, real workers."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from numoe.coordinator.api.grpc.server import SERVICE_NAMES
from numoe.v1.generation_pb2 import ChatMessage, ChatRequest, DetokenizeRequest, TokenizeRequest
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from tests.coordinator.api.grpc.grpc_serving import detail_of, info_of
from tests.model.text.llama_cpp_ids import PLAIN, SPECIAL
from tests.system.clients import ENDLESS, SERVE_FLAGS, SERVING, SHAPE, ask, connected, full
from tests.system.serve_process import NUMOE, PATIENCE_SECONDS, ServeProcess, serving
from tests.tiny_model import write_tiny_model

TOKENS = 300


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of Mixtral's architecture with a vocabulary of SentencePiece, as its published files have."""
    path = tmp_path_factory.mktemp("mixtral") / "tiny.gguf"
    write_tiny_model(path, replace(SHAPE, architecture="llama", tokenizer="llama"))
    return path


@pytest.fixture(scope="module")
def server(mixtral: Path) -> Iterator[ServeProcess]:
    """Two requests at work and one in the queue, no more; the last test of this file ends it."""
    with serving(mixtral.with_name("log"), str(mixtral), *SERVE_FLAGS, "--queue-length", "1") as server:
        yield server


def refused(*arguments: str) -> str:
    """What `numoe serve` says in one line when it cannot start because of its set-up."""
    command = [NUMOE, "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


async def test_a_service_that_is_ready_is_healthy(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        for name in ("", *SERVICE_NAMES):
            health = health_pb2_grpc.HealthStub(client.channel)
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING


async def test_a_client_that_knows_only_reflection_can_generate(server: ServeProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(SERVICE_NAMES) < set(database.get_services())
        assert "grpc.health.v1.Health" in database.get_services()
        found = [token.id for message in reflected(channel, database, 20) for token in message.delta.tokens]
    async with connected(server.address) as client:
        assert found == await client.tokens(ask(20))


def reflected(channel: grpc.Channel, database: Any, tokens: int) -> list[Any]:
    """All messages of a Generate call made without any generated code, its request as `ask` makes it."""
    method = DescriptorPool(database).FindServiceByName("numoe.v1.GenerationService").methods_by_name["Generate"]
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    generate = channel.unary_stream(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    sent: Any = request.FromString(ask(tokens).SerializeToString())
    assert sent.stopping.max_tokens == tokens
    return list(generate(sent, timeout=PATIENCE_SECONDS))


async def test_texts_and_conversations_are_read_and_answered_in_the_vocabulary_of_sentencepiece(
    server: ServeProcess,
) -> None:
    known, (text, rendered) = dict(PLAIN + SPECIAL), ("hello world", "<s>[INST] hello [/INST]")
    async with connected(server.address) as client:
        served = GenerationServiceStub(client.channel)
        assert (await served.Tokenize(TokenizeRequest(text=text))).ids == [1, *known[text]]
        assert (await served.Detokenize(DetokenizeRequest(ids=[1, *known[text]]))).text == text
        request = ask(TOKENS)
        request.text = text
        stream = client.stream(request)
        assert await stream.finish() == await client.tokens(ask(TOKENS, [1, *known[text]]))
        answer = "".join(message.delta.text for message in stream.messages)
        assert answer == (await served.Detokenize(DetokenizeRequest(ids=stream.tokens))).text
        chat = ChatRequest(messages=[ChatMessage(role="user", content="hello")], sampling=request.sampling)
        chat.stopping.CopyFrom(request.stopping)
        tokens = [token.id async for message in served.Chat(chat) for token in message.delta.tokens]
        assert tokens == await client.tokens(ask(TOKENS, known[rendered]))


async def test_two_clients_at_once_get_what_each_gets_alone(server: ServeProcess) -> None:
    prompts = (1, 2, 3), tuple(range(100))
    async with connected(server.address) as first, connected(server.address) as second:
        alone = [await first.tokens(ask(TOKENS, prompt)) for prompt in prompts]
        beside = first.stream(ask(ENDLESS, prompts[0]))
        await beside.read_until("delta")
        assert await second.tokens(ask(TOKENS, prompts[1])) == alone[1]
        assert await beside.first_tokens(TOKENS) == alone[0]
        beside.call.cancel()
    assert [len(tokens) for tokens in alone] == [TOKENS, TOKENS]
    assert alone[0] != alone[1]


async def test_a_cancelled_request_gives_its_slot_to_the_next(server: ServeProcess) -> None:
    async with connected(server.address) as client, full(client) as (running, waiting):
        running[0].call.cancel()
        await waiting.read_until("delta")


async def test_a_full_queue_is_said_with_the_time_to_come_back(server: ServeProcess) -> None:
    async with connected(server.address) as client, full(client):
        error = await client.stream(ask(1)).fail()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info_of(error) == ("QUEUE_FULL", "numoe")
    assert detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


async def test_a_deadline_ends_a_request_and_frees_its_slot(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        late = [client.stream(ask(ENDLESS, seed=seed), timeout=1.0) for seed in range(2)]
        for stream in late:
            assert (await stream.fail()).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(await client.tokens(ask(5))) == 5


def test_a_taken_port_is_one_clear_line(server: ServeProcess, mixtral: Path) -> None:
    assert f"{server.address} is taken by another process" in refused(str(mixtral), "--address", server.address)


def test_a_missing_model_is_one_clear_line(tmp_path: Path) -> None:
    assert "none.gguf" in refused(str(tmp_path / "none.gguf"), "--address", "127.0.0.1:0")


async def test_a_signal_lets_the_open_request_finish_and_leaves_nothing(server: ServeProcess) -> None:
    async with connected(server.address) as client:
        stream = client.stream(ask(TOKENS))
        await stream.read_until("delta")
        belongings = server.belongings()
        assert list((belongings.folder / "logs").iterdir())
        other = belongings.folder.with_name(f"session_of_an_earlier_process_{server.process.pid}")
        other.mkdir()
        server.process.send_signal(signal.SIGTERM)
        assert len(await stream.finish()) == TOKENS
    code, log = server.wait()
    assert code == 0, log
    assert "Traceback" not in log
    belongings.assert_gone()
    assert not belongings.folder.exists()
    other.rmdir()  # fails where it was taken for the service's own
