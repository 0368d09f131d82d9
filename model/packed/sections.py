"""What lies where in a packed folder: every matrix as the panels that kernels read, whoever is to own them.

A file per layer, and one for the vocabulary; in each, section beside section without gaps:

    layer-000.panels    norms and biases | q | k | v | output | router | gate and up of all experts | down of all
    vocabulary.panels   output norm | output | rows of the token embedding

    a section           | expert 0 | expert 1 | ...
    an expert           | stride 0 | stride 1 | ...
    a stride            gate panel and up panel side by side; one panel of any other matrix; one row of the
                        embedding; a whole vector
    a slice             so many strides of one expert, with a hash of their own in the file of hashes

*Guarantees*: the rows of an expert that any worker of any plan owns are one range of bytes here, the very bytes that
its memory is to hold, as plans cut at panels, or give whole experts, and matrices that are read in turn lie together
here, too. So a folder is packed for no plan, and all read it without moving a byte.

Slices are an eighth of an expert, so that even cuts among up to 8 workers fall between them. A slice that two workers
share is read by both, to be checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.planning.panels import panel_bytes
from numoe.model.planning.plan import MOST_WORKERS, PANEL_ROWS

SLICE_BYTES = 4 << 20  # at most, but for what is longer in one stride; large enough to be read at full speed
VOCABULARY_FILE = "vocabulary.panels"
# Matrices that a step reads panel by panel in turn; a test holds it to what the loader lays together.
MATRICES = (("attn_q",), ("attn_k",), ("attn_v",), ("attn_output",), ("router",), ("gate", "up"), ("down",))

Key = tuple[tuple[str, ...], bool]  # names of the tensors, and whether they are panels


@dataclass(frozen=True, slots=True)
class Section:
    """Matrices that lie panel beside panel, or one tensor's rows as they are in a GGUF file."""

    tensors: tuple[TensorInfo, ...]
    packed: bool
    file: str
    offset: int  # bytes from the start of the file
    experts: int  # 1: the tensors have none
    strides: int  # of an expert
    stride: int  # bytes
    slice: int  # strides that share a hash; the last of an expert may have fewer
    first_hash: int

    @property
    def key(self) -> Key:
        """What tells it from all others of a model."""
        return tuple(tensor.name for tensor in self.tensors), self.packed

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.experts * self.strides * self.stride

    @property
    def slices(self) -> int:
        """Of one expert."""
        return -(-self.strides // self.slice)

    @property
    def hashes(self) -> int:
        """All of its slices."""
        return self.experts * self.slices

    @property
    def rows(self) -> int:
        """Of one expert."""
        return self.tensors[0].shape[-2] if len(self.tensors[0].shape) > 1 else 1

    def strides_of(self, slice_: int) -> tuple[int, int]:
        """From which stride of its expert a slice goes to which."""
        return slice_ * self.slice, min((slice_ + 1) * self.slice, self.strides)

    def offset_of(self, expert: int, stride: int) -> int:
        """Where a stride of an expert begins in the file."""
        return self.offset + (expert * self.strides + stride) * self.stride


def layer_file(layer: int) -> str:
    """The name of a layer's file."""
    return f"layer-{layer:03}.panels"


def sections_of(spec: ModelSpec) -> tuple[Section, ...]:
    """All sections of a model, in the order of the files and of the hashes."""
    made: list[Section] = []
    for layer, tensors in enumerate(spec.layer_tensors):
        _append(made, layer_file(layer), _groups_of(tensors))
    head: list[tuple[tuple[TensorInfo, ...], bool]] = [((spec.output_norm,), False), ((spec.output,), True)]
    _append(made, VOCABULARY_FILE, iter([*head, ((spec.token_embedding,), False)]))
    return tuple(made)


def file_bytes(sections: tuple[Section, ...]) -> dict[str, int]:
    """[name] bytes of each file."""
    sizes: dict[str, int] = {}
    for section in sections:
        sizes[section.file] = section.offset + section.bytes
    return sizes


def _groups_of(tensors: LayerTensors) -> Iterator[tuple[tuple[TensorInfo, ...], bool]]:
    for field in fields(tensors):
        tensor = getattr(tensors, field.name)
        if tensor is not None and len(tensor.shape) == 1:
            yield (tensor,), False
    for names in MATRICES:
        group = tuple(getattr(tensors, name) for name in names)
        if None not in group:
            yield group, True


def _append(made: list[Section], file: str, groups: Iterator[tuple[tuple[TensorInfo, ...], bool]]) -> None:
    offset = 0
    for tensors, packed in groups:
        before = made[-1] if made else None
        shape = tensors[0].shape
        rows = shape[-2] if len(shape) > 1 else 1
        strides = -(-rows // PANEL_ROWS) if packed else rows
        stride = sum(map(panel_bytes, tensors)) if packed else tensors[0].row_bytes
        section = Section(
            tensors=tensors,
            packed=packed,
            file=file,
            offset=offset,
            experts=shape[0] if len(shape) > 2 else 1,
            strides=strides,
            stride=stride,
            slice=max(1, min(-(-strides // MOST_WORKERS), SLICE_BYTES // stride)),
            first_hash=before.first_hash + before.hashes if before else 0,
        )
        offset += section.bytes
        made.append(section)
