"""A serving process ends well."""

from __future__ import annotations

from pathlib import Path

from tests.coordinator.commands.numoe_process import PATIENCE_SECONDS, numoe, start


def test_a_signal_drains_and_ends_serve_with_exit_code_0(model: Path) -> None:
    process, address = start(model)
    with process:
        process.terminate()
        out, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (0, ""), log
    assert '"event": "draining"' in log
    assert "Traceback" not in log
    assert numoe("generate", "Hello", "--address", address).returncode == 1
