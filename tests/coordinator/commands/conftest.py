"""A tiny model, and a service of it with fake workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.coordinator.api.grpc.grpc_serving import SHAPE
from tests.coordinator.commands.numoe_process import PATIENCE_SECONDS, start
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, SHAPE)
    return path


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    process, address = start(model)
    with process:
        yield address
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log


@pytest.fixture
def unconfigured_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()
