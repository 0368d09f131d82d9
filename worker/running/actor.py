"""The Ray actor of a worker: Ray starts, places and ends it, and carries nothing else.

The coordinator, which names the class, computes nothing: what brings the kernels is imported by workers alone (1.8 s).
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import ray

from numoe.model.planning.assignment import WorkerAssignment
from numoe.protos.errors import NumoeError, SetupError

if TYPE_CHECKING:
    from numoe.worker.running.block_files import Blocks, Places
    from numoe.worker.running.running_shard import RunningShard, ShardReport


@ray.remote
class WorkerActor:
    """One worker process."""

    def __init__(self) -> None:
        self._last_words: IO[str] = sys.stderr  # until `begin`

    def begin(self, coordinator: int, last_words: str) -> int:
        """End with the coordinator's process from now on, and tell in a file what does; return the process to watch."""
        from numoe.worker.running.process_end import end_with

        end_with(coordinator)
        self._last_words = open(last_words, "a")  # noqa: SIM115  open until this process ends
        faulthandler.enable(self._last_words, all_threads=False)
        return os.getpid()

    def prepare(self, code: Sequence[str]) -> None:
        """Load the compiled step, and the tiles of what is named as in warm.py, which were compiled before."""
        from numoe.worker.running.warm import load_code

        load_code(code)

    def load(self, assignment: WorkerAssignment) -> ShardReport | str:
        """Become the ordered shard; return a text where the operator must mend something."""
        from numoe.worker.running.running_shard import RunningShard

        try:
            self._shard: RunningShard = RunningShard(assignment, self._last_words)
            return self._shard.load()
        except (NumoeError, OSError) as error:
            return str(error)
        except MemoryError:
            node = ", ".join(map(str, assignment.shard.memory_nodes))
            found = f"worker {assignment.worker} found no memory for its shard on NUMA node {node}"
            return f"{found}; use more nodes or less KV"

    def save_blocks(self, blocks: Blocks) -> str:
        """See BlockFiles.save."""
        assert self._shard.block_files is not None
        return self._shard.block_files.save(blocks)

    def restore_blocks(self, blocks: Blocks) -> list[str]:
        """See BlockFiles.restore."""
        assert self._shard.block_files is not None
        return self._shard.block_files.restore(blocks)

    def save_slot_blocks(self, blocks: Blocks, path: Path, places: Places) -> str:
        """See save_at."""
        from numoe.worker.running.block_files import save_at

        assert self._shard.block_records is not None
        return save_at(path, self._shard.block_records, blocks, places)

    def restore_slot_blocks(self, blocks: Blocks, path: Path, places: Places) -> list[str]:
        """See restore_from."""
        from numoe.worker.running.block_files import restore_from

        assert self._shard.block_records is not None
        return restore_from(path, self._shard.block_records, blocks, places)

    def recount(self) -> ShardReport:
        """See RunningShard.recount."""
        return self._shard.recount()

    def copy_expert_out(self, layer: int, expert: int, first: int) -> int:
        """See HeldExperts.copy_out."""
        return self._shard.experts.copy_out(layer, expert, first)

    def copy_expert_in(self, layer: int, expert: int, first: int, count: int) -> ShardReport | str | None:
        """See HeldExperts.copy_in; return a report once the expert is held, a text if the node has no room for it."""
        try:
            held = self._shard.experts.copy_in(layer, expert, first, count)
        except SetupError as error:
            return str(error)
        except MemoryError:
            return f"no memory for expert {expert} of layer {layer} on NUMA node {self._shard.assignment.shard.node}"
        return self._shard.report() if held else None

    def drop_expert(self, layer: int, expert: int) -> ShardReport:
        """See HeldExperts.drop."""
        self._shard.experts.drop(layer, expert)
        return self._shard.report()
