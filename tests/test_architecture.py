"""The project keeps its own rules, and each rule notices when it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture import LAYERS, LONGEST_FILE, find_violations

ROOT = Path(__file__).parents[1]
DOCSTRING = '"""A module."""\n'


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_the_project_keeps_its_rules() -> None:
    assert find_violations(ROOT) == []


def test_the_project_has_the_folders_that_the_rules_speak_of() -> None:
    assert all((ROOT / folder / "__init__.py").is_file() for folder in LAYERS)


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("coordinator/a.py", "import numoe.kernels.matmul"),
        ("coordinator/a.py", "from numoe.worker.running.actor import Worker"),
        ("coordinator/workers/group.py", "from numoe.worker.weights import Weights"),
        ("coordinator/workers/group.py", "from numoe.worker import weights"),
        ("coordinator/workers/group.py", "import numoe.worker.actors"),
        ("worker/a.py", "from numoe.coordinator.engine.engine import Engine"),
        ("worker/a.py", "def f() -> None:\n    import numoe.coordinator"),
        ("model/a.py", "from numoe.kernels import matmul"),
        ("model/a.py", "from numoe import worker"),
        ("model/a.py", "from numoe.v1 import generation_pb2"),
        ("kernels/a.py", "from numoe.protos.errors import NumoeError"),
        ("kernels/a.py", "from numoe.model import spec"),
        ("protos/a.py", "from numoe.model.architectures.spec import ModelSpec"),
        ("worker/a.py", "from . import weights"),
        ("worker/a.py", "from .weights import Weights"),
        ("worker/a.py", "import kernels"),
        ("worker/a.py", "from model.spec import ModelSpec"),
        ("worker/a.py", "from tests.forward import forward"),
        ("coordinator/engine/engine.py", "import ray"),
        ("worker/weights.py", "from ray.util import placement_group"),
        ("worker/a.py", "import numba"),
        ("model/a.py", "from numba.core import types"),
        ("worker/a.py", "from llvmlite import ir"),
        ("coordinator/engine/engine.py", "import grpc"),
        ("coordinator/engine/engine.py", "from grpc_health.v1 import health_pb2"),
        ("worker/server.py", "import grpc.aio"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, statement: str) -> None:
    write(tmp_path, path, f"{DOCSTRING}\n{statement}\n")
    [violation] = find_violations(tmp_path)
    assert violation.startswith(f"{path}:")
    assert "imports" in violation


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        (
            "coordinator/a.py",
            "from numoe.model.architectures.spec import ModelSpec\nfrom numoe.v1 import generation_pb2",
        ),
        ("coordinator/a.py", "from numoe.coordinator import engine\nfrom numoe.protos.errors import NumoeError"),
        ("coordinator/workers/group.py", "import ray\nfrom numoe.worker.running.actor import Worker"),
        ("coordinator/process/life.py", "import grpc\nfrom grpc_reflection.v1alpha import reflection"),
        ("coordinator/service_errors.py", "import grpc"),
        ("worker/running/actor.py", "import ray\nfrom numoe.kernels.matmul import matmul"),
        ("worker/a.py", "from numoe.model.planning.plan import Shard\nfrom numoe.protos.messages import Step"),
        ("model/a.py", "from numoe.protos.errors import NumoeError\nimport numpy"),
        ("kernels/a.py", "import numba\nfrom llvmlite import ir\nfrom numoe.kernels.cpu.jit import kernel"),
        (
            "tests/a.py",
            "import numba\nimport grpc\nfrom numoe.worker.running.actor import Worker\nfrom tests.b import c",
        ),
        ("protos/numoe/v1/a_pb2_grpc.py", "import grpc"),
    ],
)
def test_an_allowed_import_is_let_pass(tmp_path: Path, path: str, statement: str) -> None:
    write(tmp_path, path, f"{DOCSTRING}\n{statement}\n")
    assert find_violations(tmp_path) == []


def test_a_long_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, "worker/fits.py", DOCSTRING + "\n" * (LONGEST_FILE - 1))
    write(tmp_path, "worker/long.py", DOCSTRING + "\n" * LONGEST_FILE)
    [violation] = find_violations(tmp_path)
    assert violation.startswith("worker/long.py")
    assert "lines" in violation


@pytest.mark.parametrize("folder", [*LAYERS, "tests", "bench"])
def test_a_module_without_a_docstring_is_found(tmp_path: Path, folder: str) -> None:
    write(tmp_path, f"{folder}/bare.py", "# only a comment\nVALUE = 1\n")
    [violation] = find_violations(tmp_path)
    assert "docstring" in violation


def test_a_print_is_found(tmp_path: Path) -> None:
    write(tmp_path, "coordinator/a.py", f"{DOCSTRING}\nprint('x')\n")
    [violation] = find_violations(tmp_path)
    assert violation == "coordinator/a.py:3: prints: use rich's console in the command line, structlog elsewhere"


@pytest.mark.parametrize("path", ["worker/a.py", "README.md", "protos/numoe/v1/a.proto", ".ci/run", "Makefile"])
@pytest.mark.parametrize("words", ["TO" + "DO", "FIX" + "ME: later"])
def test_an_unfinished_piece_is_found(tmp_path: Path, path: str, words: str) -> None:
    write(tmp_path, path, f"{DOCSTRING if path.endswith('.py') else ''}# {words}\n")
    [violation] = find_violations(tmp_path)
    assert violation.startswith(f"{path}:")
    assert "finish it" in violation


@pytest.mark.parametrize("path", ["requirements.lock", "package-lock.json", "CONTRIBUTING.md", "Makefile", ".ci/run"])
@pytest.mark.parametrize(
    "words", ["https://pypi" + ".org/simple", "registry.npmjs" + ".org", " /wo" + "rk/main", "(../sha" + "red)"]
)
def test_a_registry_or_a_machine_path_is_found(tmp_path: Path, path: str, words: str) -> None:
    write(tmp_path, path, f"see {words}\n")
    [violation] = find_violations(tmp_path)
    assert "belongs" in violation


def test_words_that_only_look_forbidden_are_let_pass(tmp_path: Path) -> None:
    write(tmp_path, "README.md", "tests/worker, model/work.py, /worker, PyPI, ../shares, mastodons\n")
    assert find_violations(tmp_path) == []


def test_files_of_others_and_links_are_left_alone(tmp_path: Path) -> None:
    for folder in (".venv/lib", "node_modules/buf", "build", ".git"):
        write(tmp_path, f"{folder}/a.txt", "TO" + "DO")
    write(tmp_path, "worker/a.py", DOCSTRING)
    (tmp_path / ".namespace").mkdir()
    (tmp_path / ".namespace/worker").symlink_to(tmp_path / "node_modules")
    assert find_violations(tmp_path) == []
