"""The project keeps its own rules, and each rule notices when it is broken."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.project.architecture import LONGEST_FILE, MEDIAN_FILE, MOST_FILES, find_violations, project_modules
from tests.project.rooms import OTHERS_SCHEMAS, ROOMS, SCHEMAS, find_upward, room_of_path, rooms_above

ROOT = Path(__file__).parents[2]
DOCSTRING = '"""A module."""\n'


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_the_project_keeps_its_rules() -> None:
    assert find_violations(ROOT) == []


def test_the_rooms_are_there_and_say_what_they_are_for() -> None:
    schemas = (SCHEMAS, OTHERS_SCHEMAS)
    assert [room for room in ROOMS if room not in schemas and not (ROOT / room / "__init__.py").is_file()] == []
    assert all(list((ROOT / room).glob("*.proto")) for room in schemas)


def test_no_room_may_import_one_above_it() -> None:
    assert find_upward(ROOMS) == []


@pytest.mark.parametrize(
    "planted",
    [
        {"model/gguf": ("model/planning",)},  # up
        {"protos": ("coordinator/engine",)},  # around
        {"kernels/cpu": ("kernels/*",)},
        {"model/text": ("model/nowhere",)},
    ],
)
def test_an_arrow_up_is_found(planted: dict[str, tuple[str, ...]]) -> None:
    assert find_upward({**ROOMS, **planted})


def test_half_of_the_files_are_short() -> None:
    lengths = [module.text.count("\n") for module in project_modules(ROOT) if not module.path.endswith("__init__.py")]
    assert statistics.median(lengths) < MEDIAN_FILE


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("coordinator/engine/a.py", "import numoe.kernels.step.step"),
        ("coordinator/engine/a.py", "from numoe.coordinator.workers.group import HostGroup"),
        ("coordinator/engine/a.py", "from numoe.coordinator.api.answering import submit"),
        ("coordinator/workers/a.py", "from numoe.coordinator.api.grpc import status"),
        ("coordinator/workers/a.py", "from numoe.worker.running.actor import WorkerActor"),
        ("coordinator/workers/actors.py", "from numoe.worker.running.team import ThreadTeam"),
        ("coordinator/workers/actors.py", "from numoe.worker import running"),
        ("coordinator/workers/actors.py", "import numoe.worker.running.actors"),
        ("coordinator/machine/a.py", "from numoe.coordinator.commands.screen.terminal import out"),
        ("coordinator/a.py", "from numoe.coordinator.engine.engine import Engine"),
        ("worker/running/a.py", "from numoe.coordinator.engine.engine import Engine"),
        ("worker/running/a.py", "def f() -> None:\n    import numoe.coordinator"),
        ("worker/placing/a.py", "from numoe.worker.running.team import ThreadTeam"),
        ("model/gguf/a.py", "from numoe.model.planning.plan import Shard"),
        ("model/planning/a.py", "from numoe.model.planning.prediction.cost import CostModel"),
        ("model/machine/a.py", "from numoe.kernels.cpu import jit"),
        ("model/machine/a.py", "from numoe import worker"),
        ("model/text/a.py", "from numoe.v1 import generation_pb2"),
        ("kernels/matmul/a.py", "from numoe.protos.errors import NumoeError"),
        ("kernels/attention/a.py", "from numoe.kernels.experts.router import choose_experts"),
        ("kernels/weights/a.py", "from numoe.kernels.matmul.groups import WIDTHS"),
        ("kernels/step/a.py", "from numoe.model.gguf import tensors"),
        ("protos/a.py", "from numoe.model.architectures.spec import ModelSpec"),
        ("client/a.py", "from numoe.coordinator.addresses import explain_refusal"),
        ("coordinator/api/a.py", "from numoe.oip import open_inference_pb2"),
        ("worker/running/a.py", "from . import team"),
        ("worker/running/a.py", "from .team import ThreadTeam"),
        ("worker/running/a.py", "import kernels"),
        ("worker/running/a.py", "from model.gguf import tensors"),
        ("worker/running/a.py", "from tests.forward import forward"),
        ("tests/a.py", "from .forward import forward"),
        ("coordinator/engine/a.py", "import ray"),
        ("coordinator/workers/placement.py", "import ray"),
        ("worker/loading/a.py", "from ray.util import placement_group"),
        ("worker/running/a.py", "import numba"),
        ("model/machine/a.py", "from numba.core import types"),
        ("worker/running/a.py", "from llvmlite import ir"),
        ("coordinator/engine/a.py", "import grpc"),
        ("coordinator/api/a.py", "from grpc_health.v1 import health_pb2"),
        ("worker/running/a.py", "import grpc.aio"),
        ("coordinator/machine/a.py", "from rich.text import Text"),
        ("coordinator/hub/models.py", "import huggingface_hub"),
        ("coordinator/hub/client.py", "from numoe.coordinator.machine.planning import decide_plan"),
        ("coordinator/a.py", "from cyclopts import Parameter"),
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
        ("coordinator/api/a.py", "from numoe.model.architectures.spec import ModelSpec"),
        ("coordinator/api/grpc/a.py", "import grpc\nfrom grpc_reflection.v1alpha import reflection\nimport numoe.v1"),
        ("coordinator/process/a.py", "from numoe.coordinator.api.grpc.server import GrpcServer"),
        ("coordinator/commands/asking/client.py", "import grpc\nfrom numoe.v1 import generation_pb2"),
        ("coordinator/commands/tables/a.py", "from rich.text import Text"),
        ("coordinator/workers/actors.py", "import ray\nfrom numoe.worker.running.actor import WorkerActor"),
        ("worker/running/actor.py", "import ray\nfrom numoe.kernels.step.step import serve_steps"),
        ("worker/loading/a.py", "from numoe.model.planning.plan import Shard\nfrom numoe.protos.messages import Step"),
        ("model/gguf/a.py", "from numoe.protos.errors import NumoeError\nimport numpy"),
        ("kernels/weights/a.py", "import numba\nfrom llvmlite import ir\nfrom numoe.kernels.cpu.jit import kernel"),
        ("kernels/step/a.py", "from numoe.kernels import records\nfrom numoe.kernels.records import Memory"),
        ("tests/a.py", "import numba\nimport grpc\nfrom numoe.worker.running.actor import WorkerActor"),
        ("protos/numoe/v1/a_pb2_grpc.py", "import grpc"),
    ],
)
def test_an_allowed_import_is_let_pass(tmp_path: Path, path: str, statement: str) -> None:
    write(tmp_path, path, f"{DOCSTRING}\n{statement}\n")
    assert find_violations(tmp_path) == []


def test_files_that_import_each_other_are_found(tmp_path: Path) -> None:
    write(tmp_path, "model/gguf/a.py", f"{DOCSTRING}\nfrom numoe.model.gguf.b import B\n")
    write(tmp_path, "model/gguf/b.py", f"{DOCSTRING}\ndef f() -> None:\n    from numoe.model.gguf import a\n")
    [violation] = find_violations(tmp_path)
    assert "imports itself, by way of model/gguf/" in violation


def test_a_file_outside_of_all_rooms_is_found(tmp_path: Path) -> None:
    write(tmp_path, "model/a.py", DOCSTRING)
    write(tmp_path, "model/__init__.py", DOCSTRING)
    write(tmp_path, "model/gguf/new/a.py", DOCSTRING)
    first, second = find_violations(tmp_path)
    assert first.startswith("model/a.py:1: lies in model, which is no room")
    assert second.startswith("model/gguf/new/a.py:1: lies in model/gguf/new, which is no room")


@pytest.mark.parametrize("folder", ["model/gguf", "tests/model/gguf", "bench"])
def test_a_crowded_folder_is_found(tmp_path: Path, folder: str) -> None:
    for number in range(MOST_FILES):
        write(tmp_path, f"{folder}/a{number}.py", DOCSTRING)
    assert find_violations(tmp_path) == []
    write(tmp_path, f"{folder}/__init__.py", DOCSTRING)
    [violation] = find_violations(tmp_path)
    assert violation.startswith(f"{folder}:1: has {MOST_FILES + 1} files of code")


def test_a_test_is_of_the_room_that_it_mirrors() -> None:
    assert room_of_path("model/gguf/part.py") == room_of_path("tests/model/gguf/test_part.py") == "model/gguf"
    assert room_of_path("tests/kernels/numeric.py") == "kernels"
    assert room_of_path("protos/numoe/v1/model.proto") == SCHEMAS
    assert room_of_path("tests/system/test_service.py") is room_of_path("README.md") is None
    assert "coordinator/process" in rooms_above("coordinator/api/grpc")
    assert "model/gguf" not in rooms_above("coordinator/api/grpc")


def test_a_long_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, "worker/running/fits.py", DOCSTRING + "\n" * (LONGEST_FILE - 1))
    write(tmp_path, "worker/running/long.py", DOCSTRING + "\n" * LONGEST_FILE)
    [violation] = find_violations(tmp_path)
    assert violation.startswith("worker/running/long.py")
    assert "lines" in violation


@pytest.mark.parametrize("folder", [*ROOMS, "tests", "bench"])
def test_a_module_without_a_docstring_is_found(tmp_path: Path, folder: str) -> None:
    write(tmp_path, f"{folder}/bare.py", "# only a comment\nVALUE = 1\n")
    [violation] = find_violations(tmp_path)
    assert "docstring" in violation


def test_a_print_is_found(tmp_path: Path) -> None:
    write(tmp_path, "coordinator/engine/a.py", f"{DOCSTRING}\nprint('x')\n")
    [violation] = find_violations(tmp_path)
    assert violation == "coordinator/engine/a.py:3: prints: use rich's console in the command line, structlog elsewhere"


@pytest.mark.parametrize("path", ["worker/running/a.py", "README.md", "protos/numoe/v1/a.proto", ".ci/run", "Makefile"])
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
    write(tmp_path, "worker/running/a.py", DOCSTRING)
    (tmp_path / ".namespace").mkdir()
    (tmp_path / ".namespace/worker").symlink_to(tmp_path / "node_modules")
    assert find_violations(tmp_path) == []
