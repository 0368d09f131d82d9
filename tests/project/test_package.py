"""The package as its users get it: built from what a clone has, installed where no checkout is, and serving there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.project.rooms import SCHEMAS, TOP_FOLDERS

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PYPROJECT["project"]["version"]
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))  # as the Makefile finds it
PAGE = "coordinator/page/index.html"  # not code, and in a folder without any; made here, whatever the rooms hold
MADE_OF_A_PROTO = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
BESIDE_THE_FOLDERS = {".gitignore", "LICENSE", "PKG-INFO", "README.md", "hatch_build.py", "pyproject.toml"}
SERVE_SECONDS = 600  # compiling for a folder that the cache has not seen took 90 to 210 s


@dataclass(frozen=True, slots=True)
class Built:
    """Two archives of one version, the wheel made of the unpacked source distribution."""

    tree: Path  # the copy of the checkout that they were built from
    source: Path
    wheel: Path


@dataclass(frozen=True, slots=True)
class Installed:
    """A virtual environment with the wheel in it, and an empty folder to work in."""

    programs: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Nothing that leads to the checkout; compiled kernels are those of the same sources wherever they lie."""
        return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}

    def output(self, program: str, *arguments: str) -> str:
        return output([str(self.programs / program), *arguments], self.folder, self.environment)

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[str]:
        """A service for the length of a block, which must then end as asked; its address."""
        log = self.folder / "serve.log"
        command = [str(self.programs / "numoe"), "serve", *arguments]
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            try:
                assert process.stdout is not None
                ready = re.match(r"READY grpc=(\S+) ", process.stdout.readline())
                assert ready, log.read_text()
                yield ready[1]
            finally:
                process.terminate()
        assert process.returncode == 0, log.read_text()


def output(command: Sequence[str], folder: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """What a command that succeeds writes to standard output."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


def product_files() -> list[str]:
    """Paths of all files that git tracks in the folders of the product, and of one that is not code."""
    return [*output(["git", "ls-files", "-z", *TOP_FOLDERS]).split("\0")[:-1], PAGE]


def generated_files() -> list[str]:
    protos = [name.removesuffix(".proto") for name in product_files() if name.endswith(".proto")]
    return [proto + ending for proto in protos for ending in MADE_OF_A_PROTO]


def name_in_wheel(path: str) -> str:
    return path.removeprefix("protos/") if path.startswith("protos/numoe/") else f"numoe/{path}"


def copy_tracked(tree: Path) -> Path:
    """Copy what a clone has, links as links, and the page."""
    for name in output(["git", "ls-files", "-z"]).split("\0")[:-1]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    (tree / PAGE).parent.mkdir()
    (tree / PAGE).write_text("<!doctype html>\n")
    return tree


def build_here(tree: Path, target: str) -> Path:
    """Build with the tools of this environment."""
    output([sys.executable, "-m", "hatchling", "build", "--target", target], tree)
    [archive] = (tree / "dist").glob("*.whl" if target == "wheel" else "*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def registry() -> None:
    """Skips what installs packages where none can be had; under REGISTRY=required that fails."""
    command = [UV, "pip", "compile", "--quiet", "--no-deps", "--no-cache", "-"]
    asked = subprocess.run(command, input="hatchling", capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        stop = pytest.fail if os.environ.get("REGISTRY") == "required" else pytest.skip
        stop(f"no registry of packages can be reached: {asked.stderr}")


@pytest.fixture(scope="module")
def built(registry: None, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """By a builder that gets what pyproject.toml asks for, and nothing of this environment."""
    tree, out = copy_tracked(tmp_path_factory.mktemp("clone")), tmp_path_factory.mktemp("archives")
    output([UV, "build", "--quiet", "--python", sys.executable, "--out-dir", str(out), str(tree)], out)
    [source], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(tree, source, wheel)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """With what the package itself asks for, as locked, and gguf of its extra "demo", which writes model files."""
    programs, folder = tmp_path_factory.mktemp("environment") / "bin", tmp_path_factory.mktemp("elsewhere")
    output([UV, "venv", "--quiet", "--python", sys.executable, str(programs.parent)], folder)
    command = [UV, "pip", "install", "--quiet", "--python", str(programs / "python")]
    output([*command, "--constraint", str(ROOT / "requirements.lock"), str(built.wheel), "gguf"], folder)
    return Installed(programs, folder)


@pytest.fixture(scope="module")
def model(installed: Installed) -> str:
    """The name of a small file in the folder to work in, of a type that every service compiles."""
    installed.output("numoe", "demo-model", "small.gguf", "--shape", "qwen3moe", "--layers", "2", "--type", "F32")
    return "small.gguf"


def test_the_wheel_holds_every_file_of_the_folders_once_and_nothing_else(built: Built) -> None:
    names = zipfile.ZipFile(built.wheel).namelist()
    code = [name for name in names if not name.startswith(f"numoe-{VERSION}.dist-info/")]
    assert sorted(code) == sorted(name_in_wheel(path) for path in product_files() + generated_files())
    assert f"numoe-{VERSION}.dist-info/licenses/LICENSE" in names


def test_the_source_distribution_holds_what_the_wheel_is_made_of_and_no_link(built: Built) -> None:
    with tarfile.open(built.source) as archive:
        members = archive.getmembers()
    expected = {*product_files(), *generated_files(), *BESIDE_THE_FOLDERS}
    assert sorted(member.name for member in members) == sorted(f"numoe-{VERSION}/{path}" for path in expected)
    assert all(member.isfile() for member in members)


def test_a_checkout_gives_the_wheel_that_its_source_distribution_gives(built: Built) -> None:
    assert build_here(built.tree, "wheel").read_bytes() == built.wheel.read_bytes()


def test_a_build_makes_the_code_of_a_changed_proto_anew(tmp_path: Path) -> None:
    tree = copy_tracked(tmp_path)
    build_here(tree, "sdist")
    proto = tree / SCHEMAS / "model.proto"
    proto.write_text(proto.read_text() + "\nmessage AddedLater {}\n")
    wheel = zipfile.ZipFile(build_here(tree, "wheel"))
    for ending in (".proto", "_pb2.py", "_pb2.pyi"):
        assert "addedlater" in wheel.read(f"numoe/v1/model{ending}").decode().lower(), ending


def test_builds_use_the_tools_that_are_locked() -> None:
    assert PYPROJECT["build-system"]["requires"] == PYPROJECT["project"]["optional-dependencies"]["build"]


def test_the_oldest_libraries_that_the_package_allows_load_the_generated_code(built: Built) -> None:
    wheel = zipfile.ZipFile(built.wheel)
    metadata = message_from_string(wheel.read(f"numoe-{VERSION}.dist-info/METADATA").decode())
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    lowest = {one.name: min(Version(part.version) for part in one.specifier) for one in asked if not one.marker}
    messages, service = (wheel.read(f"numoe/v1/generation_{ending}").decode() for ending in ("pb2.py", "pb2_grpc.py"))
    protobuf = re.search(r"^# Protobuf Python Version: (\S+)$", messages, re.MULTILINE)
    grpc = re.search(r"^GRPC_GENERATED_VERSION = '(\S+)'$", service, re.MULTILINE)
    assert protobuf
    assert grpc
    assert Version(protobuf[1]) <= lowest["protobuf"]
    assert Version(grpc[1]) <= lowest["grpcio"]


def test_the_installed_command_knows_its_version(installed: Installed) -> None:
    assert installed.output("numoe", "--version") == f"{VERSION}\n"


def test_nothing_of_the_checkout_is_imported(installed: Installed) -> None:
    [found] = installed.output("python", "-c", "import numoe; print(*numoe.__path__, sep='\\n')").splitlines()
    assert Path(found).is_relative_to(installed.programs.parent)


def test_the_installed_command_plans(installed: Installed, model: str) -> None:
    assert "Predicted: " in installed.output("numoe", "plan", model)


@pytest.mark.timeout(SERVE_SECONDS)
def test_the_installed_command_serves(installed: Installed, model: str) -> None:
    with installed.serving(model, "--address", "127.0.0.1:0") as address:
        assert installed.output("numoe", "generate", "ab", "--max-tokens", "5", "--address", address).strip()
