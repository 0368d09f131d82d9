"""Texts in the protocol's tensors: in the field of their type, or raw.

raw BYTES:  | length, 4 bytes, the lowest first | that many bytes of UTF-8 | length | ...
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from numoe.coordinator.requests.request import STOP_STRINGS
from numoe.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from numoe.protos.errors import InvalidRequest

BYTES = "BYTES"
TEXT_INPUT, STOP, TEXT_OUTPUT = "text_input", "stop", "text_output"
MOST_TEXTS = {TEXT_INPUT: 1, STOP: STOP_STRINGS}  # of each input
_LENGTH = struct.Struct("<I")


def read_inputs(message: ModelInferRequest) -> Mapping[str, Sequence[str]]:
    """The texts of each input. Raises InvalidRequest."""
    inputs, raw = message.inputs, message.raw_input_contents
    if len(inputs) > len(MOST_TEXTS):
        raise InvalidRequest("inputs", f"are {len(inputs)}; expected {TEXT_INPUT} and perhaps {STOP}")
    if raw and len(raw) != len(inputs):
        raise InvalidRequest("raw_input_contents", f"are {len(raw)}; expected one for each of {len(inputs)} inputs")
    texts: dict[str, Sequence[str]] = {}
    for index, tensor in enumerate(inputs):
        where = f"inputs[{index}]"
        if tensor.name not in MOST_TEXTS or tensor.name in texts:
            raise InvalidRequest(f"{where}.name", f"is {tensor.name!r:.80}; expected {TEXT_INPUT} or {STOP}, each once")
        if raw and tensor.HasField("contents"):
            raise InvalidRequest(f"{where}.contents", "is there beside raw_input_contents; expected one of them")
        if tensor.datatype != BYTES:
            raise InvalidRequest(f"{where}.datatype", f"is {tensor.datatype!r:.20}; expected {BYTES}")
        count = _count(tensor.shape, MOST_TEXTS[tensor.name], f"{where}.shape")
        elements = _split(raw[index], count) if raw else tensor.contents.bytes_contents
        if elements is None or len(elements) != count:
            raise InvalidRequest(where, f"does not hold the {count} elements of its shape")
        texts[tensor.name] = [_decode(element, where) for element in elements]
    if TEXT_INPUT not in texts:
        raise InvalidRequest("inputs", f"are without {TEXT_INPUT}; expected the text that is to be continued")
    return texts


def add_output(response: ModelInferResponse, text: str, shape: Sequence[int], *, raw: bool) -> None:
    """Have a response tell a text."""
    output = response.outputs.add(name=TEXT_OUTPUT, datatype=BYTES, shape=shape)
    data = text.encode()
    if raw:
        response.raw_output_contents.append(_LENGTH.pack(len(data)) + data)
    else:
        output.contents.bytes_contents.append(data)


def _count(shape: Sequence[int], most: int, where: str) -> int:
    """Of the elements of a shape, which has one text, or one line of them."""
    if not 1 <= len(shape) <= 2 or any(length != 1 for length in shape[:-1]) or not 1 <= shape[-1] <= most:
        expected = "[1] or [1, 1]" if most == 1 else f"[n] or [1, n], where n is at most {most}"
        raise InvalidRequest(where, f"is {list(shape[:4])}; expected {expected}, as a request is answered by itself")
    return shape[-1]


def _split(data: bytes, count: int) -> Sequence[bytes] | None:
    """The elements of raw BYTES; None: they are not so many."""
    elements, at = [], 0
    for _ in range(count):
        if at + _LENGTH.size > len(data):
            return None
        [length] = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        elements.append(data[at - length : at])
    return elements if at == len(data) else None


def _decode(element: bytes, where: str) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(where, f"holds no UTF-8 from byte {error.start} on") from error
