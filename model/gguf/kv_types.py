"""The number formats of a KV cache."""

from __future__ import annotations

from typing import NamedTuple

from numoe.model.gguf.tensors import TensorType, row_bytes


class KvTypes(NamedTuple):
    """Of keys, and of values."""

    keys: TensorType = TensorType.F16
    values: TensorType = TensorType.F16

    def bytes(self, head_size: int) -> int:
        """Bytes of the key and the value of one position and KV head."""
        return row_bytes(self.keys, head_size) + row_bytes(self.values, head_size)


HALF_FLOATS = KvTypes()
