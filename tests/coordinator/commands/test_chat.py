"""A conversation on a terminal goes on whatever becomes of one turn, and so does what was said before."""

from __future__ import annotations

import asyncio
import re
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.coordinator.api.grpc.grpc_serving import (
    ask,
    fake_workers,
    generated,
    running_server,
    settings_of,
    small_workers,
    tiny_read,
    until,
)
from tests.coordinator.api.grpc.scripted import Scripted, chatting
from tests.coordinator.commands.numoe_process import NUMOE, PATIENCE_SECONDS, answer_to, numoe, start
from tests.coordinator.commands.terminal_process import OnTerminal
from tests.coordinator.engine.fake_executor import LIMITS, lose_worker_at, lose_workers_from
from tests.coordinator.engine.serving import Gate, both

TOO_LONG = " ".join("a" * 400)


@pytest.fixture
def chat(address: str) -> Iterator[OnTerminal]:
    with OnTerminal("chat", "--address", address, "--max-tokens", "5") as chat:
        chat.until("(?m)^> ")
        yield chat


def reply(*turns: str, tokens: int = 5) -> str:
    """What the fake model answers to the last turn, having answered those before with so many tokens each."""
    prompt, answer = "", ""
    for said in turns:
        prompt += f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
        answer = answer_to(tiny_read()[1].encode(prompt), tokens)
        prompt += f"{answer}<|im_end|>\n"
    return answer


def test_a_turn_that_does_not_fit_is_told_in_a_line_and_the_conversation_goes_on(chat: OnTerminal) -> None:
    assert chat.turn("Hello").startswith(reply("Hello") + "\n")
    shown = chat.turn(TOO_LONG)
    assert re.fullmatch(r"error: messages: has .* the conversation is kept: /drop forgets its oldest turn.*\n", shown)
    assert chat.turn("the").startswith(reply("Hello", "the") + "\n")


def test_turns_are_taken_back_forgotten_and_asked_again(chat: OnTerminal) -> None:
    assert chat.turn("/undo") == "there is nothing to take back\n"
    for turns in (("Hello",), ("Hello", "the"), ("Hello", "the", "a")):
        assert chat.turn(turns[-1]).startswith(reply(*turns) + "\n")
    assert chat.turn("/undo") == "taken back: a\n"
    assert chat.turn("/regen").startswith(reply("Hello", "the") + "\n")
    assert chat.turn("/clear") == "all forgotten\n"
    assert chat.turn("a").startswith(reply("a") + "\n")
    assert "/drop [N]" in chat.turn("/help")
    assert chat.turn("/drop 7") == "1 turn forgotten, 0 left\n"
    assert chat.turn("/frob") == "error: /frob is unknown and was not sent; /help lists what there is\n"
    assert chat.turn("/etc/hosts").startswith(reply("/etc/hosts") + "\n")
    chat.interrupt_until("Ctrl-D or /exit ends the conversation\n> ")
    chat.type("/bye")
    assert chat.wait() == 0


def test_the_oldest_turns_can_make_room(address: str) -> None:
    with OnTerminal("chat", "--address", address, "--max-tokens", "5") as chat:
        chat.until("(?m)^> ")
        first, second = " ".join("a" * 120), " ".join("b" * 120)
        assert chat.turn(first).startswith(reply(first) + "\n")
        assert "/drop forgets its oldest turn" in chat.turn(second)
        assert chat.turn("/drop") == "1 turn forgotten, 0 left\n"
        assert chat.turn("/regen").startswith(reply(second) + "\n")


def test_an_answer_leaves_room_for_others_and_one_cut_off_says_how_to_go_on(address: str) -> None:
    share = LIMITS.context_tokens // 4
    with OnTerminal("chat", "--address", address) as chat:
        chat.until("(?m)^> ")
        shown = chat.turn("Hello")
        assert shown.startswith(reply("Hello", tokens=share) + "\n")
        assert f'cut off after {share} tokens, the most for one answer: say "go on", or allow more' in shown
        assert "the most for one answer" in chat.turn("go on")
        assert f"the context of {LIMITS.context_tokens} tokens is full: /drop forgets" in chat.turn("go on" * 10)


async def test_a_full_queue_is_waited_for_as_it_says_and_ctrl_c_ends_only_the_waiting() -> None:
    gate = Gate(0)
    async with running_server(small_workers(before_collect=gate), settings_of(queue_length=0)) as running:
        with OnTerminal("chat", "--address", running.ready.address, "--max-tokens", "5") as chat:
            await asyncio.to_thread(chat.until, "(?m)^> ")
            first = asyncio.create_task(generated(running, ask()))
            await gate.reached.wait()
            chat.type("Hello")
            await asyncio.to_thread(chat.until, "waiting for the service, Ctrl-C gives up\n")
            chat.interrupt()
            await asyncio.to_thread(chat.until, "nothing was answered; /regen asks again\n> ")
            chat.type("/regen")
            await asyncio.to_thread(chat.until, "waiting for the service, Ctrl-C gives up\n")
            gate.open()
            shown = await asyncio.to_thread(chat.until, "(?m)^> ")
        assert shown.startswith(reply("Hello") + "\n")
        assert len((await first).ids) == 8


async def test_a_question_waits_for_a_full_service_as_long_as_it_may() -> None:
    gate = Gate(0)
    async with running_server(small_workers(before_collect=gate), settings_of(queue_length=0)) as running:
        first = asyncio.create_task(generated(running, ask()))
        await gate.reached.wait()
        generate = (NUMOE, "generate", "Hello", "--address", running.ready.address, "--max-tokens", "5")
        once = await asyncio.create_subprocess_exec(*generate, "--retry-seconds", "0", stdout=PIPE, stderr=PIPE)
        out, remarks = await once.communicate()
        assert (once.returncode, out) == (1, b"")
        assert re.fullmatch(rb"error: .* requests wait already.*\(RESOURCE_EXHAUSTED\)\n", remarks)
        patient = await asyncio.create_subprocess_exec(*generate, stdout=PIPE, stderr=PIPE)
        assert patient.stderr is not None
        assert (await patient.stderr.readline()).endswith(b": waiting for the service, Ctrl-C gives up\n")
        gate.open()
        out, remarks = await patient.communicate()
        assert (patient.returncode, out.decode(), remarks) == (
            0,
            answer_to(tiny_read()[1].encode("Hello"), 5) + "\n",
            b"",
        )
        assert len((await first).ids) == 8


async def test_a_piece_of_an_answer_that_a_failure_cut_off_is_not_kept() -> None:
    gate = Gate(3)
    async with running_server(fake_workers(before_collect=both(gate, lose_workers_from(3)))) as running:
        with OnTerminal("chat", "--address", running.ready.address, "--max-tokens", "5") as chat:
            await asyncio.to_thread(chat.until, "(?m)^> ")
            chat.type("Hello")
            await gate.reached.wait()
            gate.open()
            shown = await asyncio.to_thread(chat.until, "/regen asks again\n> ")
            told = r"error: worker 1 \(pid 4242\) died in step 5, 3 times in a row at this\s+request \(UNAVAILABLE,"
            assert re.search(told, shown)
            assert "the answer so far is not kept" in " ".join(shown.split())
            await until(lambda: running.workers.restarts == 3)
            assert (await asyncio.to_thread(chat.turn, "/regen")).startswith(reply("Hello") + "\n")
            assert (await asyncio.to_thread(chat.turn, "the")).startswith(reply("Hello", "the") + "\n")


async def test_an_answer_that_goes_on_after_a_loss_says_so_below() -> None:
    async with running_server(fake_workers(before_collect=lose_worker_at(3))) as running:
        with OnTerminal("chat", "--address", running.ready.address, "--max-tokens", "5") as chat:
            await asyncio.to_thread(chat.until, "(?m)^> ")
            shown = await asyncio.to_thread(chat.turn, "Hello")
    assert shown.startswith(reply("Hello") + "\n")
    told = r"worker 1 \(pid 4242\) died in step 3; went on after \d+\.\d s, nothing is lost"
    assert re.search(told, " ".join(shown.split()))


async def test_a_conversation_is_not_begun_with_a_model_that_has_no_turns() -> None:
    async with running_server(template=None) as running:
        done = await asyncio.to_thread(numoe, "chat", "--address", running.ready.address, said="Hello\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: tiny qwen3moe has no chat template that works, which turns need: use `numoe generate`\n"
    )


def test_a_conversation_outlives_the_service(model: Path) -> None:
    process, address = start(model)
    with process, OnTerminal("chat", "--address", address, "--max-tokens", "5") as chat:
        chat.until("(?m)^> ")
        chat.turn("Hello")
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        shown = chat.turn("the")
        assert shown.startswith(f"error: nothing answers at {address}")
        assert "the conversation is kept: /regen asks again" in shown
        again, _ = start(model, address=address)
        with again:
            assert chat.turn("/regen").startswith(reply("Hello", "the") + "\n")
            again.terminate()
            again.communicate(timeout=PATIENCE_SECONDS)


async def test_thoughts_are_shown_to_a_person_alone_and_not_kept() -> None:
    with chatting() as model:
        async with running_server(Scripted("<think>\nwhy\n</think>\n\nso"), **model) as running:
            address = running.ready.address
            with OnTerminal("chat", "--address", address) as chat:
                await asyncio.to_thread(chat.until, "(?m)^> ")
                assert (await asyncio.to_thread(chat.turn, "Hello")).startswith("why\n\nso\n")
            done = await asyncio.to_thread(numoe, "chat", "Hello", "--address", address)
    assert (done.returncode, done.stdout) == (0, "so\n")
