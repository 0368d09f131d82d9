"""How many bytes a matrix takes in a worker's memory, where 16 rows are one panel.

The kernels own the layout (kernels/weights/formats.py); this table repeats one number of each format, and a test holds
it to them. Small scales are whole bytes in panels, so some formats take up to 3.6 % more than in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from numoe.model.gguf.tensors import BLOCKS, TensorInfo, TensorType
from numoe.model.planning.plan import PANEL_ROWS

# The number of the layout of panels, which folders of `numoe pack` are refused by: one more whenever the kernels lay
# out any format otherwise. A test holds it to hashes of panels.
PANEL_LAYOUT = 1

# Bytes that a block of the file takes in a panel; formats that are not named take as many as in the file.
_IN_PANELS: Mapping[TensorType, int] = MappingProxyType(
    {
        TensorType.Q3_K: 114,
        TensorType.Q4_K: 148,
        TensorType.Q5_K: 180,
        TensorType.IQ4_XS: 138,
    }
)


def panel_bytes(tensor: TensorInfo) -> int:
    """Bytes of one panel: 16 rows."""
    values, size = BLOCKS[tensor.type]
    return PANEL_ROWS * tensor.shape[-1] // values * _IN_PANELS.get(tensor.type, size)


def rows_bytes(tensor: TensorInfo, rows: int) -> int:
    """Bytes of `rows` rows in whole panels."""
    return -(-rows // PANEL_ROWS) * panel_bytes(tensor)
