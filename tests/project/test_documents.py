"""What documents and docstrings say of the code is so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.project.architecture import project_modules

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
STEPS = README[README.index("## A request's life in eight steps") : README.index("## Where things are")]


def definitions(tree: ast.Module) -> Iterator[str]:
    """Functions and classes of a module, and methods as Class.method."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{name}" for name in definitions(ast.Module(node.body, [])))


def test_the_eight_steps_name_what_is_there() -> None:
    steps = re.findall(r"^([0-9]+)\. ", STEPS, re.MULTILINE)
    assert steps == [str(number) for number in range(1, 9)]
    named = re.findall(r"`([\w.]+)`\s+\(([\w/]+\.py)\)", STEPS)
    assert len(named) >= 10
    for name, path in named:
        assert name in definitions(ast.parse((ROOT / path).read_text())), f"{path} has no {name}"


def test_every_room_is_named() -> None:
    table = README[README.index("## Where things are") :]
    for folder in ("coordinator", "worker", "kernels", "model"):
        rooms = {path.name for path in (ROOT / folder).iterdir() if (path / "__init__.py").is_file()}
        [row] = re.findall(rf"^\| `{folder}/` \| (.*)$", table, re.MULTILINE)
        assert set(re.findall(r"`(\w+)/`", row)) == rooms


def test_files_that_are_named_are_there() -> None:
    modules = list(project_modules(ROOT))
    names = {module.path.rpartition("/")[2] for module in modules} | {path.name for path in ROOT.glob("*.py")}
    texts = {name: (ROOT / name).read_text() for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md")}
    texts |= {module.path: module.text for module in modules if not module.path.startswith("tests/")}
    missing = {
        f"{where} names {name}"
        for where, text in texts.items()
        for name in re.findall(r"(?<![\w*])(\w+\.py)\b", text)
        if name not in names
    }
    assert missing == set()
