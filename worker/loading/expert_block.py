"""How a whole expert lies in memory, wherever it was loaded or copied to:

| gate 0 | up 0 | gate 1 | up 1 | ...  panels of 16 of the F rows | down 0 | down 1 | ...  of the D rows |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.weights.formats import ROWS
from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.worker.loading.arrangement import panel_bytes


@dataclass(frozen=True, slots=True)
class ExpertBlock:
    """One whole expert of a layer, as drawn above."""

    up: int  # offset of the first up panel; gate panels begin at 0
    down: int
    bytes: int

    def addresses(self, address: int) -> NDArray[np.uintp]:  # [3] of the first gate, up and down panel
        """Where the matrices lie in a block at an address."""
        return np.array([address, address + self.up, address + self.down], np.uintp)


def expert_block(tensors: LayerTensors, spec: ModelSpec) -> ExpertBlock:
    """How the whole experts of a layer lie."""
    gate, up = panel_bytes(tensors.gate), panel_bytes(tensors.up)
    down = -(-spec.expert_width // ROWS) * (gate + up)
    return ExpertBlock(gate, down, down + -(-spec.width // ROWS) * panel_bytes(tensors.down))
