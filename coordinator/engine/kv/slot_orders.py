"""What operators have done with slots: looked up, filled again, emptied, by the engine's thread between two steps.

An order waits until nobody is at work in its slot. What reads many blocks reads some of them between two steps.

*Guarantees*: every order is answered, or failed; one whose caller no longer waits is dropped before it begins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from numoe.coordinator.engine.kv.block_pool import BlockPool, fill
from numoe.coordinator.engine.kv.slots import Left, Slots
from numoe.protos.errors import InvalidRequest, Unavailable, WorkerLost

Blocks = Sequence[tuple[int, bytes]]  # ids, and the keys of what they hold
Read = Callable[[Blocks], int]  # blocks into the workers' memory; returns how many, from the first on, are there

RESTORED_AT_ONCE = 16  # blocks between two steps: some 100 MB of a model of 30B, in 0.1 s


@dataclass(frozen=True, slots=True)
class Found:
    """What a slot has in memory."""

    left: Left
    blocks: Blocks
    versions: Sequence[int]  # of the blocks: a block that has another by now holds something else


@dataclass(slots=True)
class _Order:
    """One order; `advance` is called until its answer is not None."""

    slot: int
    advance: Callable[[], Any]
    answer: Future[Any]
    begun: bool = False


class SlotOrders:
    """The orders that are open. Given by any thread, carried out by the engine's."""

    def __init__(self, changed: threading.Condition, slots: Slots, pool: BlockPool, forget: Callable[[bytes], None]):
        """`changed`: the engine's lock, told of every order; `forget`: a block, wherever it is kept beside memory."""
        self._changed, self._slots, self._pool, self._forget = changed, slots, pool, forget
        self._orders: list[_Order] = []
        self._closed = False

    # ---- by any thread

    def find(self, slot: int) -> Future[Found]:
        """What it has in memory. Raises InvalidRequest, Unavailable, as all do."""
        return self._give(slot, partial(self._find, slot))

    def version(self, block: int) -> int:
        """As `BlockPool.version`."""
        return self._pool.version(block)

    def restore(self, slot: int, left: Left, read: Read) -> Future[int]:
        """Has blocks read, and is what the slot has then; returns how many, from the first on, are there."""
        return self._give(slot, _Restoring(self._slots, self._pool, slot, left, read))

    def erase(self, slot: int) -> Future[int]:
        """Has blocks forgotten that no other slot has and no request at work; returns how many."""
        return self._give(slot, partial(self._erase, slot))

    def _give(self, slot: int, advance: Callable[[], Any]) -> Future[Any]:
        last = len(self._slots.left) - 1
        if not 0 <= slot <= last:
            raise InvalidRequest("id_slot", f"is {slot}; this service has slots 0 to {last}")
        order = _Order(slot, advance, Future())
        with self._changed:
            if self._closed:
                raise Unavailable("the service has stopped; its slots are gone")
            self._orders.append(order)
            self._changed.notify()
        return order.answer

    # ---- by the engine's thread

    @property
    def ready(self) -> bool:
        """Whether there is one that can be carried out now."""
        return any(self._slots.is_free(order.slot) for order in self._orders)

    def advance(self) -> None:
        """Carries out a part of the first that can be. Raises WorkerLost."""
        with self._changed:
            order = next((one for one in self._orders if self._slots.is_free(one.slot)), None)
        if order is None:
            return
        told = None
        try:
            order.begun = order.begun or order.answer.set_running_or_notify_cancel()
            if order.begun and (told := order.advance()) is None:
                return
        except WorkerLost:
            order.answer.set_exception(Unavailable("workers were lost meanwhile; try again"))
            raise
        except Exception as error:  # a file that does not fit, or a defect of ours: whoever waits is told
            order.answer.set_exception(error)
        finally:
            if told is not None or not order.begun or order.answer.done():
                with self._changed:
                    self._orders.remove(order)
        if told is not None:
            order.answer.set_result(told)

    def close(self) -> None:
        """Fails what is open, and takes no more."""
        with self._changed:
            self._closed, orders, self._orders = True, self._orders, []
        for order in orders:
            if order.begun or order.answer.set_running_or_notify_cancel():
                order.answer.set_exception(Unavailable("the service stops; its slots are gone"))

    def _find(self, slot: int) -> Found:
        left = self._slots.left[slot]
        blocks = self._pool.blocks_of(left.keys)
        pairs = list(zip(blocks, left.keys, strict=False))
        return Found(left.first(len(blocks)), pairs, [self._pool.version(block) for block in blocks])

    def _erase(self, slot: int) -> int:
        left, self._slots.left[slot] = self._slots.left[slot], self._slots.left[slot].first(0)
        others = {key for other in self._slots.left for key in (*other.keys, other.end)}
        if left.end not in others:
            self._pool.drop(left.end)
        gone = [key for key in left.keys if key not in others and self._pool.drop(key)]
        for key in gone:
            self._forget(key)
        return len(gone)


@dataclass(slots=True)
class _Restoring:
    """Reads some blocks at each call; others may need the room of those before meanwhile."""

    slots: Slots
    pool: BlockPool
    slot: int
    left: Left
    read: Read
    there: int = 0

    def __call__(self) -> int | None:
        keys, before = self.left.keys, self.there
        found, _ = self.pool.find(keys)
        self.there = fill(self.pool, keys[: found + RESTORED_AT_ONCE], self.read)
        if before < self.there < len(keys):
            return None
        self.slots.left[self.slot] = self.left.first(self.there)
        return self.there
