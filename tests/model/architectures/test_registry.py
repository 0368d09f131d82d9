"""Descriptions of architectures speak of the tensors that a layer can hold."""

from __future__ import annotations

from dataclasses import fields

from numoe.model.architectures.registry import ARCHITECTURES
from numoe.model.architectures.spec import LayerTensors


def test_descriptions_name_the_fields_of_a_layer() -> None:
    known = {field.name for field in fields(LayerTensors)}
    optional = {"attn_q_bias", "attn_k_bias", "attn_v_bias", "attn_q_norm", "attn_k_norm", "router"}
    for architecture in ARCHITECTURES.values():
        for tensors in filter(None, (architecture.dense, architecture.routed)):
            named = {tensor.field for tensor in tensors}
            assert named <= known
            assert known - named <= optional
