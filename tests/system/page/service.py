"""The service whose page is looked at: its API without a browser, and requests that last as long as a test needs."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from numoe.v1.generation_pb2 import GenerateRequest, Sampling, Stopping, TokenIds
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from tests.system.clients import ENDLESS

State = dict[str, Any]
Counts = NDArray[np.int64]  # [L, E]


def status(http: str) -> State:
    """All parts of the stream, once."""
    with urllib.request.urlopen(f"http://{http}/ops/status", timeout=30) as reply:
        state: State = json.load(reply)
    return state


def counts(packed: dict[str, Any]) -> Counts:
    kind = np.dtype(packed["type"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(packed["data"]), kind).reshape(packed["shape"]).astype(np.int64)


def question(tokens: int, name: str = "") -> GenerateRequest:
    return GenerateRequest(
        token_ids=TokenIds(ids=[1, 2, 3]),
        sampling=Sampling(temperature=1.0, seed=7),
        stopping=Stopping(max_tokens=tokens, ignore_eos=True),
        request_id=name,
    )


def answer(address: str, tokens: int) -> None:
    """A request, to its end."""
    with grpc.insecure_channel(address) as channel:
        for _ in GenerationServiceStub(channel).Generate(question(tokens)):
            pass


@contextmanager
def endless(address: str, name: str) -> Iterator[Any]:
    """A request of that id at work, which only an operator or the end of the block ends; gives its call."""
    with grpc.insecure_channel(address) as channel:
        call = GenerationServiceStub(channel).Generate(question(ENDLESS, name))
        while next(call).WhichOneof("event") != "delta":
            pass
        yield call
        call.cancel()
