"""The doctor as a process: what it says, keeps and exits with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.coordinator.commands.numoe_process import numoe
from tests.machines import set_governor, write_machine
from tests.model.doctor.findings import TWO_NODES
from tests.packed_model import pack_here
from tests.tiny_model import TinyShape, write_tiny_model


def test_doctor_measures_this_machine_and_keeps_the_figures(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unmeasured = numoe("doctor", "--no-measure")
    assert "GB/s" not in unmeasured.stdout
    done = numoe("doctor", str(model))
    assert done.returncode == ("problem" in done.stdout), done.stderr
    for part in ("GB/s read by all cores", "bandwidth of nodes", "room for the model", "speed of the model"):
        assert part in done.stdout
    assert (tmp_path / "numoe" / "bandwidth.toml").exists()
    assert "GB/s read by all cores" in numoe("doctor", "--no-measure").stdout


@pytest.mark.parametrize("command", ["plan", "doctor"])
def test_what_is_said_of_a_model_is_no_line_of_the_output(command: str, tmp_path: Path) -> None:
    model = tmp_path / "long.gguf"
    write_tiny_model(model, TinyShape(context_length=131072))  # states positions that no key explains
    done = numoe(command, str(model), "--root", str(write_machine(tmp_path / "machine", TWO_NODES)))
    assert "rope_scaling" in done.stderr
    assert "rope_scaling" not in done.stdout


def test_doctor_weighs_a_packed_model(model: Path, tmp_path: Path) -> None:
    done = numoe("doctor", "--no-measure", "--packed", str(pack_here(model, tmp_path / "packed")))
    assert done.returncode == ("problem" in done.stdout), done.stderr
    assert "room for the model" in done.stdout
    assert "packed_model" not in done.stdout
    done = numoe("doctor", "--no-measure", "--packed", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "expected a folder that `numoe pack` made, found nothing" in done.stderr


def test_doctor_judges_the_copy_of_another_machine(tmp_path: Path, model: Path) -> None:
    root = write_machine(tmp_path, TWO_NODES)
    done = numoe("doctor", str(model), "--root", str(root))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Nothing to mend.\n")
    set_governor(root, "powersave", "acpi-cpufreq")
    done = numoe("doctor", "--root", str(root))
    assert (done.returncode, done.stderr) == (1, "")
    assert "mend: cpupower frequency-set -g performance" in done.stdout
    assert done.stdout.endswith("1 problem.\n")
    assert "GB/s" not in done.stdout
