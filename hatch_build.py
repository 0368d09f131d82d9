"""Makes the protobuf code: hatchling calls this for every build, `make protos` runs it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import files
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = "protos"
PACKAGES = ("numoe/oip", "numoe/v1")  # the folders of .proto files below PROTOS, and the code's in a wheel
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")  # what is made of one .proto


class ProtobufCode(BuildHookInterface[BuilderConfig]):
    """Called before anything is packed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the code if some of it is missing or older than its .proto, and pack it as `numoe.X` in a wheel."""
        protos = Path(self.root) / PROTOS
        if any(_is_stale(proto) for proto in _sources(protos)):
            generate(protos)
        if self.target_name == "wheel" and version == "standard":
            build_data["force_include"].update({str(protos / package): package for package in PACKAGES})


def generate(protos: Path) -> None:
    """Write the code of every .proto beside it."""
    # Named by path, as protoc looks on PATH, where those of another environment may come first.
    plugins = [file for file in files("mypy-protobuf") or () if file.name.startswith("protoc-gen-")]
    options = [f"--plugin={file.name}={file.locate()}" for file in plugins]
    options += ["--python_out=.", "--grpc_python_out=.", "--mypy_out=quiet:.", "--mypy_grpc_out=quiet:."]
    names = [str(proto.relative_to(protos)) for proto in _sources(protos)]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *options, *names], cwd=protos, check=True)


def _sources(protos: Path) -> list[Path]:
    return sorted(proto for package in PACKAGES for proto in (protos / package).glob("*.proto"))


def _is_stale(proto: Path) -> bool:
    made = [proto.with_name(proto.stem + ending) for ending in GENERATED]
    return any(not file.exists() or file.stat().st_mtime < proto.stat().st_mtime for file in made)


if __name__ == "__main__":
    generate(Path(__file__).parent / PROTOS)
