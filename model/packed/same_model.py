"""Whether two processes have the same model before them, on whichever hosts, without reading all of it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from blake3 import blake3

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.packed.manifest import HASHES_FILE

SAMPLE_BYTES = 4096  # of each tensor's beginning: a model's file differs from a fine-tuned one's in all of them


def same_model(spec: ModelSpec, packed: Path | None) -> bytes:
    """A digest of all that is read of the head, of the files' sizes, and of the beginning of every tensor.

    Of a packed folder, of the hashes of all its parts. Raises OSError: a file cannot be read.
    """
    digest = blake3()
    if packed is not None:
        return digest.update((packed / HASHES_FILE).read_bytes()).digest()
    sizes = [file.bytes for file in spec.files]
    digest.update(repr((spec.architecture, spec.name, spec.layers, spec.rope, sizes)).encode())
    layers = ([*layer.matrices, layer.attn_norm, layer.ffn_norm] for layer in spec.layer_tensors)
    for tensor in chain([spec.token_embedding, spec.output_norm, spec.output], *layers):
        digest.update(repr((tensor.name, tensor.type.name, tensor.shape, tensor.offset)).encode())
        digest.update(_beginning(tensor))
    return digest.digest()


def _beginning(tensor: TensorInfo) -> bytes:
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        return file.read(min(SAMPLE_BYTES, tensor.bytes))
