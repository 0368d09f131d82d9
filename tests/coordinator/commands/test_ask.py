"""Asking a service: answers on standard output, failures in one line."""

from __future__ import annotations

import re

import pytest

from numoe.protos.messages import Sampling
from tests.coordinator.api.grpc.grpc_serving import tiny_read
from tests.coordinator.commands.numoe_process import answer_to, numoe
from tests.coordinator.engine.fake_executor import LIMITS


def test_generate_continues_a_text_on_standard_output(address: str) -> None:
    expected = answer_to(tiny_read()[1].encode("Hello the"), 12)
    for arguments, said in ((["Hello the"], ""), ([], "Hello the")):
        done = numoe("generate", *arguments, "--address", address, "--max-tokens", "12", said=said)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")


def test_the_address_can_come_from_the_environment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMOE_ADDRESS", address)
    assert numoe("generate", "Hello", "--max-tokens", "1").returncode == 0


def test_flags_say_how_tokens_are_drawn(address: str) -> None:
    done = numoe("generate", "Hello", "--address", address, "--max-tokens", "20", "--temperature", "1", "--seed", "5")
    assert done.stdout == answer_to(tiny_read()[1].encode("Hello"), 20, Sampling(temperature=1.0, seed=5)) + "\n"


def test_chat_answers_one_message_or_keeps_a_conversation(address: str) -> None:
    tokenizer = tiny_read()[1]
    first = "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    answer = answer_to(tokenizer.encode(first), 5)
    second = f"{first}{answer}<|im_end|>\n<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    flags = ("--system", "Be brief", "--address", address, "--max-tokens", "5")
    once = numoe("chat", "Hello", *flags)
    assert (once.returncode, once.stdout) == (0, answer + "\n")
    talk = numoe("chat", *flags, said="Hello\n\nthe\n/exit\n")
    assert talk.returncode == 0
    assert talk.stdout.replace("> ", "").split() == [answer, answer_to(tokenizer.encode(second), 5)]


def test_a_refused_request_is_one_line_and_exit_code_1(address: str) -> None:
    done = numoe("generate", "Hello", "--address", address, "--top-p", "7")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: sampling\.top_p: is 7\.0; .*\(INVALID_ARGUMENT\)\n", done.stderr)


def test_a_deadline_is_one_line_and_exit_code_1(address: str) -> None:
    done = numoe("generate", "Hello", "--address", address, "--timeout-seconds", "0.000001")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the time is up")
    assert done.stderr.count("\n") == 1


def test_nobody_listening_is_one_line_and_exit_code_1() -> None:
    done = numoe("chat", "Hello", "--address", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: nothing answers at 127.0.0.1:1: start `numoe serve`, or name another address with --address\n"
    )


def test_the_context_limits_an_answer_without_max_tokens(address: str) -> None:
    done = numoe("generate", "Hello", "--address", address)
    assert done.returncode == 0
    assert len(tiny_read()[1].encode(done.stdout.rstrip("\n"))) <= LIMITS.context_tokens
