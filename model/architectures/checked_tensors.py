"""The tensors of a file, given out by name once their shape and type are found right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from numoe.model.gguf.model_file import GgufFile
from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorInfo, TensorType
from numoe.protos.errors import ModelFileError, UnsupportedModel
from numoe.protos.foreign_text import one_line

NAMES_SHOWN = 5


class CheckedTensors:
    """Gives out each tensor once, so that none is missing and none is left over; every fault names the tensor."""

    __slots__ = ("_file", "_left")

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._left = dict(file.tensors)

    def require(self, names: Iterable[str]) -> None:
        """Check that the file has all these tensors. Raises ModelFileError."""
        missing = [name for name in names if name not in self._file.tensors]
        if not missing:
            return
        hint = "the file is incomplete"
        if "blk.0.ffn_gate.0.weight" in self._file.tensors:
            hint = "each expert is a tensor of its own, as before 2024; convert the model again"
        raise ModelFileError("tensor-missing", f"{self._file.path}: missing {_some(missing)}; {hint}")

    def take(self, name: str, shape: tuple[int, ...], types: frozenset[TensorType] = RUNNABLE_TYPES) -> TensorInfo:
        """The tensor `name`, in `shape`; the file may leave out outer dimensions of 1, as ggml does.

        Raises:
            ModelFileError: it has another shape.
            UnsupportedModel: it has another type.
        """
        tensor = self._left.pop(name)
        if _without_outer_ones(tensor.shape) != _without_outer_ones(shape):
            shapes = f"has the shape {tensor.shape}, the keys and the other tensors say {shape}"
            raise ModelFileError("tensor-shape", f"{self._file.path}: {name} {shapes}")
        if tensor.type not in types:
            runs = ", ".join(known.name for known in sorted(types))
            raise UnsupportedModel(f"{self._file.path}: {name} is {tensor.type.name}, this version runs {runs} here")
        return replace(tensor, shape=shape)

    def take_if_present(self, name: str, shape: tuple[int, ...], types: frozenset[TensorType]) -> TensorInfo | None:
        """As `take`, None if the file has no such tensor."""
        return self.take(name, shape, types) if name in self._left else None

    def refuse_unexpected(self) -> None:
        """Raise UnsupportedModel if one is left: a program that computes with it gives other answers."""
        if self._left:
            names = _some(list(self._left))
            raise UnsupportedModel(f"{self._file.path}: this version does not compute with {names}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return one_line(", ".join(names[:NAMES_SHOWN])) + more


def _without_outer_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    ones = next((index for index, size in enumerate(shape) if size != 1), len(shape))
    return shape[ones:]
