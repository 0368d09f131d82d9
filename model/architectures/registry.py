"""The architectures that this version runs, by the name that a GGUF file gives."""

from __future__ import annotations

from collections.abc import Mapping

from numoe.model.architectures.description import Architecture
from numoe.model.architectures.llama import LLAMA
from numoe.model.architectures.qwen3moe import QWEN3MOE

ARCHITECTURES: Mapping[str, Architecture] = {known.name: known for known in (QWEN3MOE, LLAMA)}
