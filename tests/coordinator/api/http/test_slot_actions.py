"""llama-server's actions of slots over HTTP: save, restore and erase what a request has left."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.coordinator.api.grpc.grpc_serving import fake_workers, running_server
from tests.coordinator.api.http.http_client import Reply, ask
from tests.coordinator.engine.fake_executor import LIMITS
from tests.coordinator.engine.serving import Gate
from tests.coordinator.tiny_tokenizer import TOKENIZER
from tests.coordinator.workers.slot_saving import saving

TEXT = "abcdeabcd " * 12
PROMPT, BLOCK = len(TOKENIZER.encode(TEXT)), LIMITS.block_positions
FULL = (PROMPT - 1) // BLOCK * BLOCK  # tokens of the prompt that are found once they were run
SAVED = (PROMPT + 19) // BLOCK * BLOCK  # and of the answer, whose last one is not run
ASKED = {"prompt": TEXT, "max_tokens": 20, "temperature": 0, "ignore_eos": True}


async def act(http: str, slot: object, action: str, content: Any = None) -> Reply:
    told = {} if content is None else {"content_type": "application/json"}
    body = b"" if content is None else json.dumps(content).encode()
    return await ask(http, f"/slots/{slot}?action={action}", "POST", body, **told)


async def complete(http: str, **changes: Any) -> tuple[str, int]:
    """The answer, and how many of the prompt's tokens had not to be run."""
    told = (await ask(http, "/v1/completions", "POST", json.dumps(ASKED | changes).encode())).json
    return told["choices"][0]["text"], told["timings"]["cache_n"]


async def test_a_slot_is_saved_erased_and_restored_after_a_restart(tmp_path: Path) -> None:
    async with running_server(saving(fake_workers(), tmp_path)) as running:
        http = running.ready.http
        first = await complete(http, id_slot=3)
        saved = await act(http, 3, "save", {"filename": "a.bin"})
        erased = await act(http, 3, "erase")
        again = await complete(http, id_slot=3)
    size = (tmp_path / "a.bin").stat().st_size
    told = saved.json
    assert told.pop("timings")["save_ms"] > 0
    assert told == {"id_slot": 3, "filename": "a.bin", "n_saved": SAVED, "n_written": size}
    assert (erased.status, erased.json) == (200, {"id_slot": 3, "n_erased": SAVED})
    assert (first[1], again) == (0, first)
    async with running_server(saving(fake_workers(), tmp_path)) as running:
        http = running.ready.http
        restored = (await act(http, 0, "restore", {"filename": "a.bin"})).json
        assert await complete(http) == (first[0], FULL)
        known = [*TOKENIZER.encode(TEXT), *(TOKENIZER.encode(letter)[0] for letter in first[0])]
        assert (await complete(http, prompt=known))[1] == SAVED
    assert restored.pop("timings")["restore_ms"] > 0
    assert restored == {"id_slot": 0, "filename": "a.bin", "n_restored": SAVED, "n_read": size}


async def test_a_number_with_zeros_before_it_is_that_number(tmp_path: Path) -> None:
    async with running_server(saving(fake_workers(), tmp_path)) as running:
        http = running.ready.http
        await complete(http, id_slot=3)
        assert (await act(http, "0000000003", "erase")).json == {"id_slot": 3, "n_erased": SAVED}


async def test_without_a_folder_every_action_is_told_to_be_none() -> None:
    async with running_server() as running:
        for action in ("save", "restore", "erase", "other"):
            refused = await act(running.ready.http, 0, action, {"filename": "a"})
            error = refused.json["error"]
            assert (refused.status, error["code"], error["type"]) == (501, 501, "not_supported_error")
            assert "--slot-save-path FOLDER" in error["message"]


@pytest.mark.parametrize(
    ("slot", "action", "content", "param", "why"),
    [
        ("8", "save", {"filename": "a"}, "id_slot", "slots 0 to 7"),
        ("-1", "save", {"filename": "a"}, "id_slot", "expected the number of a slot"),
        ("x", "erase", None, "id_slot", "expected the number of a slot"),
        ("9" * 5000, "erase", None, "id_slot", "slots 0 to 7"),
        ("9" * 50, "erase", None, "id_slot", "slots 0 to 7"),
        ("0", "", {"filename": "a"}, "action", "expected save, restore or erase"),
        ("0", "drop", {"filename": "a"}, "action", "expected save, restore or erase"),
        ("0", "save", {}, "filename", "missing"),
        ("0", "save", {"filename": 3}, "filename", "expected `str`"),
        ("0", "save", {"filename": "../a"}, "filename", "without folders"),
        ("0", "restore", {"filename": "a/b"}, "filename", "without folders"),
        ("0", "restore", {"filename": "missing"}, "filename", "is not in --slot-save-path"),
        ("0", "save", "a", None, "object"),
    ],
)
async def test_what_cannot_be_done_is_told(
    tmp_path: Path, slot: str, action: str, content: Any, param: str | None, why: str
) -> None:
    async with running_server(saving(fake_workers(), tmp_path)) as running:
        refused = await act(running.ready.http, slot, action, content)
    error = refused.json["error"]
    assert (refused.status, error["type"]) == (400, "invalid_request_error")
    assert param is None or error["param"] == param
    assert why in error["message"]
    assert not list(tmp_path.iterdir())


async def test_a_request_in_a_slot_that_does_not_exist_is_refused() -> None:
    async with running_server() as running:
        refused = await ask(running.ready.http, "/v1/completions", "POST", json.dumps(ASKED | {"id_slot": 8}).encode())
        assert (await complete(running.ready.http, id_slot=-1))[1] == 0
    assert (refused.status, refused.json["error"]["param"]) == (400, "id_slot")
    assert "slots 0 to 7" in refused.json["error"]["message"]


async def test_slots_show_requests_where_they_are_at_work() -> None:
    gate = Gate(number=1)
    async with running_server(fake_workers(before_collect=gate)) as running:
        http = running.ready.http
        asked = [asyncio.create_task(complete(http, id_slot=slot, prompt="a")) for slot in (5, 5)]
        await gate.reached.wait()
        at_work = [slot["is_processing"] for slot in (await ask(http, "/slots?fail_on_no_slot=1")).json]
        gate.open()
        await asyncio.gather(*asked)
    assert at_work == [number == 5 for number in range(8)]
