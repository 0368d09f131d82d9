"""The KV blocks of one sequence: those that it holds, by what stands in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.kv.block_keys import BlockKeys
from numoe.coordinator.engine.kv.block_pool import BlockTable
from numoe.coordinator.engine.kv.slots import Left
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import NO_BLOCK, NO_TOKENS

Tokens = NDArray[np.int32]


class SequenceBlocks:
    """Its tokens, and the table of its blocks while it is at work."""

    def __init__(self, experts: ExpertReduction, tokens: Tokens, block_positions: int, asker: str) -> None:
        """`tokens`: all that the sequence may ever have, known before it is asked for what follows from them."""
        self._experts, self._tokens, self._size = experts, tokens, block_positions
        self._keys = BlockKeys(experts, tokens, block_positions, asker)
        self._table: BlockTable | None = None  # None: still in the queue, or closed
        self._source = NO_BLOCK  # that the next positions to be sent begin as a copy of

    @property
    def ids(self) -> Tokens:
        """[n] those that it holds."""
        return NO_TOKENS if self._table is None else self._table.ids

    def open(self, table: BlockTable) -> None:
        """It is at work from now on."""
        self._table = table

    def begins_at(self, position: int) -> bool:
        """Whether a block does."""
        return position % self._size == 0

    def room(self, positions: int) -> int:
        """How many more positions its last block has room for."""
        return -positions % self._size

    def keys(self, run: int, known: int) -> list[bytes]:
        """Names of the full blocks of the tokens behind the first `run`, but for the last that is known."""
        return self._keys.between(run // self._size, (known - 1) // self._size)

    def reuse(self, keys: list[bytes]) -> int:
        """Takes the next blocks over, of these names, as far as they are there; returns how many positions they are."""
        return self._size * self._table.reuse(keys) if keys and self._table is not None else 0

    def copy(self, run: int, known: int) -> int:
        """Has its next block, of tokens behind the first `run` but for the last, begin as another one; returns how many
        positions they have in common, which are copied once the next ones are sent: in the next step."""
        if self._table is None:
            return 0
        copied, self._source = self._table.begin_alike(self._keys.text(run // self._size, known - 1))
        return copied

    def send(self, end: int) -> tuple[Tokens, int]:
        """Those of all positions before `end`, allotted where still missing; and which one to copy first."""
        assert self._table is not None
        source, self._source = self._source, NO_BLOCK
        return self._table.grow(end), source

    def ran(self, positions: int) -> None:
        """So many positions were run in all: others may have what stands in full blocks."""
        assert self._table is not None
        self._table.name_run(self._keys, positions)

    def left(self, run: int) -> Left:
        """What a request leaves that has run so many positions."""
        full = run // self._size
        keys, end = self._keys.between(0, full), self._keys.text(full, run).key
        return Left(self._tokens[: full * self._size], self._experts, keys, end)

    def lose(self) -> None:
        """What its blocks held is lost; it goes on with others."""
        self._source = NO_BLOCK
        if self._table is not None:
            self._table.close()

    def close(self, run: int) -> None:
        """Gives its blocks back, of which so many positions were run and nothing is under way."""
        if self._table is not None:
            self._table.name_end(self._keys, run)
        self.lose()
        self._table = None
