"""Keeps what is known of a worker's memory true while experts come and go: only what changed is counted.

To ask about every page again takes 0.1 s per GiB, on CPUs that compute; about an expert of 20 MB, 0.4 ms. The experts
that come are held to what everything else was held to when it was loaded, see locality.py.

*Rejected*: to add and subtract sizes, which would tell what should be and not what the kernel says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from numoe.model.planning.plan import Shard
from numoe.protos.errors import SetupError
from numoe.protos.locality import NONE, Locality, NodeBytes, total
from numoe.worker.placing.locality import SETTING, problem_of
from numoe.worker.placing.pages import REFUSED, MemoryRange, count_bytes, move_to


class LocalityNow:
    """Where one shard's memory and threads are; one thread at a time may change its experts."""

    def __init__(self, found: Locality, shard: Shard, allow_remote: bool) -> None:
        self._found, self._shard, self._allow_remote = found, shard, allow_remote
        self._loaded = [Counter(layer) for layer in found.layers]  # [L]
        self._arrived: dict[tuple[int, int], NodeBytes] = {}  # by layer and expert

    def now(self) -> Locality:
        """Tell memory as of the last change, and threads as of loading."""
        layers = [dict(+counted) for counted in self._loaded]
        for (layer, _), counted in self._arrived.items():
            layers[layer] = dict(total((layers[layer], counted)))
        found = replace(self._found, layers=tuple(layers))
        return replace(found, problem=problem_of(found, self._shard))

    def arrive(self, layer: int, expert: int, block: MemoryRange) -> None:
        """Count an expert that has been written to `block`, and move what of it is on another node.

        Raises:
            SetupError: not all could be moved, and `allow_remote` was not given; it does not count as arrived.
        """
        counted = _count(block)
        elsewhere = self._elsewhere(counted)
        if elsewhere and self._found.binding != NONE and self._shard.spread is None:
            move_to([block], self._shard.node)
            counted = _count(block)
            left = self._elsewhere(counted)
            if left and not self._allow_remote:
                raise SetupError(
                    f"worker {self._shard.worker}: found {left:,} bytes of expert {expert} of layer {layer} on another "
                    f"node; expected all on node {self._shard.node}: free memory there, or start with {SETTING}"
                )
            self._found = replace(self._found, moved_bytes=self._found.moved_bytes + elsewhere - left)
        self._arrived[layer, expert] = counted

    def leave(self, layer: int, expert: int) -> None:
        """Forget an expert that arrived: it is gone, and all its memory."""
        del self._arrived[layer, expert]

    @contextmanager
    def changing(self, layer: int, block: MemoryRange) -> Iterator[None]:
        """Count a part of a layer's loaded memory before and after the caller gives it back within this context."""
        before = _count(block)
        yield
        self._loaded[layer].subtract(before)
        self._loaded[layer].update(_count(block))

    def _elsewhere(self, counted: NodeBytes) -> int:
        """Bytes on other nodes."""
        return sum(count for node, count in counted.items() if node not in self._shard.memory_nodes)


def _count(block: MemoryRange) -> NodeBytes:
    """Bytes by node; none where the kernel does not tell."""
    try:
        return count_bytes([block])
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return {}
