"""What llama-server does with slots: saves what one has left, restores it, erases it.

Of what was asked there, and of the answer, full blocks are kept: the tokens of a last block that is not full are run
again. Blocks are everybody's, so that a restored prompt is found whichever slot it is asked in.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from numoe.coordinator.api.bodies import read_body
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.engine.executor import SlotStore
from numoe.protos.errors import InvalidRequest

NOT_SUPPORTED = 501
MOST_DIGITS = 9  # that are looked at of a slot's number: there are not so many slots
WHY = "this service saves no slots: start it with --slot-save-path FOLDER"


class SlotBody(msgspec.Struct, kw_only=True):
    """Which file in --slot-save-path."""

    filename: str


async def act(slot: str, action: str, body: bytes, served: ServedModel) -> tuple[int, dict[str, Any]]:
    """/slots/N?action=...: a status of HTTP and what is told with it. Raises InvalidRequest, ServiceError."""
    files = served.workers.slot_files
    if files is None:
        return NOT_SUPPORTED, {"error": {"code": NOT_SUPPORTED, "message": WHY, "type": "not_supported_error"}}
    if not (slot.isascii() and slot.isdecimal()):
        raise InvalidRequest("id_slot", f"is {slot[:20]!r}, expected the number of a slot")
    number = int(slot.lstrip("0")[:MOST_DIGITS] or "0")
    match action:
        case "save":
            return 200, await _save(number, read_body(body, SlotBody).filename, files, served)
        case "restore":
            return 200, await _restore(number, read_body(body, SlotBody).filename, files, served)
        case "erase":
            blocks = await asyncio.wrap_future(served.engine.slot_orders.erase(number))
            return 200, {"id_slot": number, "n_erased": _tokens(blocks, served)}
    raise InvalidRequest("action", f"is {action[:20]!r}, expected save, restore or erase")


async def _save(slot: int, name: str, files: SlotStore, served: ServedModel) -> dict[str, Any]:
    began, engine = time.monotonic(), served.engine
    files.check(name)
    found = await asyncio.wrap_future(engine.slot_orders.find(slot))
    blocks, size = await asyncio.to_thread(files.save, name, found, engine.slot_orders.version)
    return {
        "id_slot": slot,
        "filename": name,
        "n_saved": _tokens(blocks, served),
        "n_written": size,
        "timings": {"save_ms": (time.monotonic() - began) * 1e3},
    }


async def _restore(slot: int, name: str, files: SlotStore, served: ServedModel) -> dict[str, Any]:
    began = time.monotonic()
    saved = await asyncio.to_thread(files.open, name)
    blocks = await asyncio.wrap_future(served.engine.slot_orders.restore(slot, saved.left, saved.read))
    return {
        "id_slot": slot,
        "filename": name,
        "n_restored": _tokens(blocks, served),
        "n_read": saved.bytes,
        "timings": {"restore_ms": (time.monotonic() - began) * 1e3},
    }


def _tokens(blocks: int, served: ServedModel) -> int:
    return blocks * served.workers.limits.block_positions
