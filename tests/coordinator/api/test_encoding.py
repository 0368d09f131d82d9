"""Texts are encoded apart from the event loop, without the GIL, piece by piece, and no longer than they are wanted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.coordinator.api.conversation import Turn
from numoe.coordinator.api.encoding import SHORT_CHARACTERS, Checkpoint, Encoder, work_apart
from numoe.coordinator.api.prompts import decode, encode_text
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.part import UNCUT_CHARACTERS
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import DeadlineExceeded, InvalidRequest, RequestCancelled
from tests.coordinator.api.conversations import encode_turns
from tests.coordinator.tiny_tokenizer import TOKENIZER
from tests.model.text.tiny_metadata import scored_metadata
from tests.tiny_vocabulary import CHAT_TEMPLATE

PATIENCE_SECONDS = 60.0
SCORED = Tokenizer.from_metadata(scored_metadata())
PIECES = ["hello", " the", "  ", "\n", "don't", " 12", "é", "<|im_end|>", "<think>", "x y", "🙂", " a"]


def turns_of_another_thread(work: Callable[[], object]) -> int:
    """How often another Python thread came to run meanwhile."""
    turns, over, running = 0, threading.Event(), threading.Event()

    def count() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            running.set()
            time.sleep(0)

    other = threading.Thread(target=count)
    other.start()
    assert running.wait(PATIENCE_SECONDS)
    before = turns
    work()
    found = turns - before
    over.set()
    other.join()
    return found


@pytest.mark.parametrize("text", ["a" * 400_000, "Hello the " * 40_000])
@pytest.mark.parametrize("tokenizer", [TOKENIZER, SCORED], ids=["gpt2", "llama"])
def test_other_threads_run_while_a_text_is_encoded(text: str, tokenizer: Tokenizer) -> None:
    assert turns_of_another_thread(lambda: tokenizer.encode(text)) > 20


def test_other_threads_run_while_a_conversation_is_encoded_and_tokens_are_decoded() -> None:
    template = ChatTemplate(CHAT_TEMPLATE, "", "")
    turns = [Turn("user", "Hello <|im_end|> the " * 10_000)]
    assert turns_of_another_thread(lambda: encode_turns(Encoder(TOKENIZER), template, turns)) > 20
    assert turns_of_another_thread(lambda: decode(TOKENIZER, [300] * 200_000)) > 20
    template.close()


@settings(derandomize=True, max_examples=100)
@given(text=st.lists(st.sampled_from(PIECES), max_size=60).map("".join), special=st.booleans())
def test_pieces_give_the_tokens_of_the_whole(text: str, special: bool) -> None:
    pieces = list(TOKENIZER.pieces(text, 3))
    assert "".join(pieces) == text
    assert [i for piece in pieces for i in TOKENIZER.encode(piece, special=special)] == TOKENIZER.encode(
        text, special=special
    )


@pytest.mark.parametrize("character", ["a", "7", " ", "\n", "漢", "🙂", "-"])
def test_what_cannot_be_cut_is_refused_before_it_is_encoded(character: str) -> None:
    """Encoding it would take seconds, and a gigabyte of memory, which nobody could end."""
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1

    encoder, size = Encoder(TOKENIZER, look), UNCUT_CHARACTERS
    text = character * (15_000_000 // len(character.encode()))
    encodings: tuple[Callable[[], object], ...] = (
        lambda: encode_text(encoder, text),
        lambda: _encode_turns(encoder, "Hello you. " + text),
    )
    for encode in encodings:
        start = time.process_time()
        with pytest.raises(InvalidRequest, match=f"^prompt: has more than {size} characters in a row without the end"):
            encode()
        assert time.process_time() - start < 2.0  # a fiftieth of a second was measured; encoding takes 8 s and more
    assert 1 <= looks <= 4
    assert encode_text(encoder, character * size)


def _encode_turns(encoder: Encoder, text: str) -> list[int]:
    template = ChatTemplate(CHAT_TEMPLATE, "", "")
    try:
        return encode_turns(encoder, template, [Turn("user", text)])
    finally:
        template.close()


@pytest.mark.parametrize("tokenizer", [TOKENIZER, SCORED], ids=["gpt2", "llama"])
def test_a_long_text_is_looked_after_between_its_pieces(tokenizer: Tokenizer) -> None:
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1

    text = "Hello the " * (SHORT_CHARACTERS // 5)
    assert encode_text(Encoder(tokenizer, look), text, bos=False) == tokenizer.encode(text)
    assert looks > 4


def test_encoding_ends_where_the_context_does() -> None:
    pieces = 0

    def look() -> None:
        nonlocal pieces
        pieces += 1

    with pytest.raises(InvalidRequest, match=r"^prompt: has more than 5000 tokens"):
        encode_text(Encoder(TOKENIZER, look, most_tokens=5000), "a b c d" * 9000)
    assert pieces < 3
    with pytest.raises(InvalidRequest, match=r"^prompt: takes 65001 bytes"):
        encode_text(Encoder(TOKENIZER, look, most_tokens=5000), "a" * 65_001)


async def test_work_whose_client_goes_ends_at_the_next_look() -> None:
    started, left, ended = threading.Event(), threading.Event(), threading.Event()

    def work(look: Checkpoint) -> None:
        started.set()
        assert left.wait(PATIENCE_SECONDS)
        try:
            look()
        except RequestCancelled:
            ended.set()
            raise

    task = asyncio.create_task(work_apart(work, 1, None))
    assert await asyncio.to_thread(started.wait, PATIENCE_SECONDS)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    left.set()
    assert await asyncio.to_thread(ended.wait, PATIENCE_SECONDS)


async def test_work_ends_with_its_deadline() -> None:
    with pytest.raises(DeadlineExceeded):
        await work_apart(lambda look: look(), 1, time.monotonic() - 1)
    await work_apart(lambda look: look(), 1, time.monotonic() + PATIENCE_SECONDS)


async def test_a_short_text_does_not_wait_for_long_ones() -> None:
    opened = threading.Event()
    long = [asyncio.create_task(work_apart(lambda _: opened.wait(PATIENCE_SECONDS), 1 << 20, None)) for _ in range(40)]
    assert await work_apart(lambda _: "short", 5, None) == "short"
    opened.set()
    assert all(await asyncio.gather(*long))
