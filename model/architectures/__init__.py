"""What a model consists of, as its GGUF file states it: sizes and tensors.

To add an architecture, describe it in a file of its own, as qwen3moe.py does: the tensors of a layer by name, shape and
type, put together from the groups of description.py, and the keys that choose arithmetic. Then name it in registry.py.
A tensor of a new kind needs a field in spec.LayerTensors, and kernels that compute with it.
"""
