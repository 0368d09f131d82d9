"""`numoe serve` as its clients and its operator meet it: a real process, a real port, real workers."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import psutil  # type: ignore[import-untyped]
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
from tests.system.serve_process import NUMOE, PATIENCE_SECONDS, ServeProcess, serving, wait_until
from tests.tiny_model import write_tiny_model

TOKENS = 300
README = Path(__file__).parents[2] / "README.md"
RAY_METHODS = (  # one of each service
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/RequestWorkerLease",
    "ObjectManagerService/Push",
    "CoreWorkerService/PushTask",
)


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
        chat.messages.add(role="assistant", content="world")  # which goes on
        tokens = [token.id async for message in served.Chat(chat) for token in message.delta.tokens]
        request.text, request.parse_special = f"{rendered} world", True
        assert tokens == await client.tokens(request)


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


Listening = Counter[tuple[str, str]]  # of a process, and where: how many ports


def told_listeners() -> Listening:
    """What README's table says that listens, for two workers."""
    table = README.read_text().split("| listens |")[1].split("\n\n")[0].splitlines()[2:]
    told: Listening = Counter()
    for row in table:
        process, where = (cell.strip() for cell in row.split("|")[1:3])
        name, _, each = process.strip("`").partition("`, ")
        interface, _, ports = where.partition(", ")
        told[name.split()[0], interface] += {"one port": 1, "two ports": 2}[ports] * (2 if each == "each worker" else 1)
    return told


def found_listeners(server: ServeProcess) -> dict[tuple[str, int], str]:
    """Interface by process and port, of all that belongs to a service."""
    found = {}
    service = psutil.Process(server.process.pid)
    for process in (service, *service.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    found[process.name(), one.laddr.port] = interface_of(one.laddr.ip, one.laddr.port, server)
    return found


def interface_of(ip: str, port: int, server: ServeProcess) -> str:
    if server.address == f"{ip.removeprefix('::ffff:')}:{port}":
        return "`--address`"
    if server.http == f"{ip}:{port}":
        return "`--http-address`"
    return "every interface" if ip in ("::", "0.0.0.0") else "the machine's address"


def answer_of_a_stranger(process: str, port: int) -> set[str]:
    """What Ray's processes say to the calls that they know, without the token."""
    if process == "ray::RuntimeEnvAgent":
        machine = next(one for one in psutil.net_connections("inet") if one.laddr and one.laddr.port == port).laddr.ip
        with pytest.raises(HTTPError) as refused:
            urlopen(f"http://{machine}:{port}/get_or_create_runtime_env", b"", timeout=PATIENCE_SECONDS)
        refused.value.close()
        return {str(refused.value.code)}
    answers = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in RAY_METHODS:
            call: Any = channel.unary_unary(f"/ray.rpc.{method}")
            with pytest.raises(grpc.RpcError) as failed:
                call(b"", timeout=PATIENCE_SECONDS)
            answers.add(failed.value.code().name)
    return answers - {"UNIMPLEMENTED"}  # another process's


def test_nothing_listens_but_what_the_readme_says_and_ray_s_processes_answer_no_stranger(server: ServeProcess) -> None:
    def found() -> Listening:
        return Counter((process, where) for (process, _), where in found_listeners(server).items())

    wait_until(lambda: found() == told_listeners(), lambda: (found(), told_listeners()))
    for (process, port), where in found_listeners(server).items():
        if where not in ("`--address`", "`--http-address`"):
            assert answer_of_a_stranger(process, port) in ({"UNAUTHENTICATED"}, {"401"})


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
