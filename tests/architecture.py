"""The project's rules that a machine can check: who imports whom, how long files are, what no file says."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

LONGEST_FILE = 400  # lines; past that a file is about two things
MOST_FILES = 15  # of code in one folder; past that it is about two things

# Every folder of the product that holds code, and the rooms below it whose modules it may import; its own are allowed.
# Listed from the bottom up, a room may name only rooms that stand above it here, so there can be no circle.
ROOMS: Mapping[str, tuple[str, ...]] = {
    "protos": (),
    "model/gguf": ("protos",),
    "model/text": ("protos",),
    "model/machine": ("protos",),
    "model/architectures": ("model/gguf", "protos"),
    "model/made_up": ("model/gguf", "model/text", "protos"),
    "model/planning": ("model/gguf", "model/architectures", "model/machine", "protos"),
    "model/planning/prediction": ("model/gguf", "model/architectures", "model/machine", "model/planning", "protos"),
    "model/doctor": ("model/gguf", "model/architectures", "model/machine", "model/planning", "protos"),
    "kernels": (),  # the records that a step is given
    "kernels/cpu": (),
    "kernels/threads": ("kernels/cpu",),
    "kernels/weights": ("kernels/cpu", "kernels"),
    "kernels/matmul": ("kernels/weights", "kernels/threads", "kernels/cpu", "kernels"),
    "kernels/attention": ("kernels/matmul", "kernels/weights", "kernels/threads", "kernels/cpu", "kernels"),
    "kernels/experts": ("kernels/matmul", "kernels/weights", "kernels/threads", "kernels/cpu", "kernels"),
    "kernels/step": (
        "kernels/attention",
        "kernels/experts",
        "kernels/matmul",
        "kernels/weights",
        "kernels/threads",
        "kernels/cpu",
        "kernels",
    ),
    "worker/placing": ("model/machine", "model/planning", "kernels/threads", "kernels/cpu", "protos"),
    "worker/loading": ("worker/placing", "model/*", "kernels/weights", "kernels", "protos"),
    "worker/running": ("worker/placing", "worker/loading", "model/*", "kernels/*", "kernels", "protos"),
    "coordinator": ("model/gguf", "protos"),  # settings, addresses, logs
    "coordinator/engine": ("coordinator", "model/text", "protos"),
    "coordinator/machine": ("coordinator", "model/*", "protos"),
    "coordinator/workers": ("coordinator", "coordinator/engine", "model/*", "protos"),
    "coordinator/api": ("coordinator", "coordinator/engine", "coordinator/workers", "model/*", "protos"),
    "coordinator/api/grpc": (
        "coordinator",
        "coordinator/engine",
        "coordinator/workers",
        "coordinator/api",
        "model/*",
        "protos",
    ),
    "coordinator/process": (
        "coordinator",
        "coordinator/engine",
        "coordinator/machine",
        "coordinator/workers",
        "coordinator/api",
        "coordinator/api/grpc",
        "model/*",
        "protos",
    ),
    "coordinator/commands/tables": ("coordinator/machine", "model/*", "protos"),
    "coordinator/commands": (
        "coordinator",
        "coordinator/machine",
        "coordinator/process",
        "coordinator/workers",
        "coordinator/commands/tables",
        "model/*",
        "protos",
    ),
}
# The one module that may look across: it names the class that it starts in another process.
EXCEPTIONS = {("coordinator/workers/actors.py", "numoe.worker.running.actor")}

TOP_FOLDERS = tuple(dict.fromkeys(room.split("/")[0] for room in ROOMS))
GENERATED = "protos/numoe/v1"  # imported as numoe.v1

# Libraries that only some files may import: patterns of those files.
GRPC_FILES = ("coordinator/api/grpc/*.py", "coordinator/commands/client.py")
FENCES = {
    "ray": ("coordinator/workers/*.py", "worker/running/actor.py"),
    "numba": ("kernels/*.py",),
    "llvmlite": ("kernels/*.py",),
    "grpc": GRPC_FILES,
    "grpc_health": GRPC_FILES,
    "grpc_reflection": GRPC_FILES,
    "grpc_status": GRPC_FILES,
    "cyclopts": ("coordinator/commands/*.py",),
    "rich": ("coordinator/commands/*.py",),
}

PYTHON_FOLDERS = (*TOP_FOLDERS, "tests", "bench", "deploy")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".lock", ".proto", ".txt", ".sh", ".html", ".js"}
TEXT_NAMES = {"Makefile", "README", "run", ".gitignore", ".npmrc", "Dockerfile"}
HIDDEN_FOLDERS = {".ci", ".namespace"}  # of those that begin with a dot, the project's own
FOREIGN_FOLDERS = {"node_modules", "build", "dist", "__pycache__"}

# Spelled in pieces, so that this file itself stays clean.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
FORBIDDEN = re.compile(
    r"pypi\." + r"org|python" + r"hosted|npmjs" + r"\.|deb\.debian" + r"\.|debian\." + r"org|crates" + r"\.io"
    r"|(?<![\w./-])/wo" + r"rk\b|\.\./shar" + r"ed\b|(?<![\w./-])/opt/py" + r"pi\b"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed Python file of the project."""

    path: str  # from the root of the project, with slashes
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and full name of everything imported, wherever in the file; a relative import begins with a dot."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = "." * node.level + (node.module or "")
                yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def find_violations(root: Path) -> list[str]:
    """Every breach of a rule below `root`, each as "file:line: what is wrong"."""
    found = [f"{path}:{line}: {fault}" for path, line, fault in _text_faults(root)]
    modules = list(project_modules(root))
    for module in modules:
        for rule in RULES:
            found += [f"{module.path}:{line}: {fault}" for line, fault in rule(module)]
    return sorted(found + list(_crowds(modules)))


def find_upward(rooms: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Every room that may import one which is not listed before it: an arrow up, or part of a circle."""
    order = list(rooms)
    return [
        f"{room} may import {below}, which does not stand before it"
        for room in rooms
        for below in _allowed(room, rooms)
        if below != room and (below not in rooms or order.index(below) > order.index(room))
    ]


def project_modules(root: Path) -> Iterator[Module]:
    """Every Python file of the project, but those that are generated."""
    for folder in PYTHON_FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not fnmatch(name, "*_pb2*.py") and not FOREIGN_FOLDERS & set(path.relative_to(root).parts):
                text = path.read_text()
                yield Module(name, text, ast.parse(text))


def _text_faults(root: Path) -> Iterator[tuple[str, int, str]]:
    for path in _text_files(root):
        name = path.relative_to(root).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if match := FORBIDDEN.search(line):
                yield name, number, f"says {match[0]!r}: no registry's host and no path of one machine belongs here"
            if match := UNFINISHED.search(line):
                yield name, number, f"says {match[0]}: finish it or file an issue"


def _text_files(folder: Path) -> Iterator[Path]:
    """The project's text files, links not followed: what .namespace links to is met in its own place."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in FOREIGN_FOLDERS:
            continue
        if path.is_dir():
            if not path.name.startswith(".") or path.name in HIDDEN_FOLDERS:
                yield from _text_files(path)
        elif (path.suffix in TEXT_SUFFIXES or path.name in TEXT_NAMES) and not fnmatch(path.name, "*_pb2*"):
            yield path


def _crowds(modules: Iterable[Module]) -> Iterator[str]:
    files = Counter(module.folder for module in modules)
    for folder, count in files.items():
        if count > MOST_FILES:
            yield f"{folder}:1: has {count} files of code, expected at most {MOST_FILES}: divide it into rooms"


def _allowed(room: str, rooms: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The rooms that a room may import from; "model/*" stands for all below model/."""
    named = {below for below in rooms[room] if not below.endswith("/*")}
    folders = tuple(below.removesuffix("*") for below in rooms[room] if below.endswith("/*"))
    return {room} | named | {other for other in rooms if folders and other.startswith(folders)}


def _room_of(name: str) -> str:
    """The room where an imported name of numoe lies: numoe.model.gguf.part.Part is in model/gguf."""
    parts = name.split(".")[1:]
    if parts[:1] == ["v1"]:
        return "protos"
    return next(("/".join(parts[:end]) for end in range(len(parts), 0, -1) if "/".join(parts[:end]) in ROOMS), "")


def _rooms(module: Module) -> Iterator[tuple[int, str]]:
    top = module.folder.split("/")[0]
    if top not in TOP_FOLDERS:  # tests and benches look at everything
        yield from _relative(module)
        return
    if module.folder not in ROOMS and not module.path.endswith("/__init__.py"):
        yield (
            1,
            f"lies in {module.folder}, which is no room: put it into one, or name a new one in tests/architecture.py",
        )
        return
    yield from _relative(module)
    allowed = _allowed(module.folder, ROOMS) if module.folder in ROOMS else set()
    for line, name in module.imports():
        parts = name.split(".")
        if parts[0] in (*TOP_FOLDERS, "tests", "bench"):
            yield line, f"imports {name}: the product knows its parts as numoe.*, and no tests"
        elif parts[0] == "numoe" and _room_of(name) not in allowed and not _excepted(module, name):
            yield line, f"imports {name}: {module.folder} may import only {', '.join(sorted(allowed))}"


def _relative(module: Module) -> Iterator[tuple[int, str]]:
    for line, name in module.imports():
        if name.startswith("."):
            yield line, f"imports {name}: say the full name, numoe.{module.folder.replace('/', '.')}..."


def _excepted(module: Module, name: str) -> bool:
    return any(module.path == path and f"{name}.".startswith(f"{target}.") for path, target in EXCEPTIONS)


def _fences(module: Module) -> Iterator[tuple[int, str]]:
    for line, name in module.imports():
        patterns = FENCES.get(name.split(".")[0])
        inside = module.folder.split("/")[0] in TOP_FOLDERS
        if patterns and inside and not any(fnmatch(module.path, pattern) for pattern in patterns):
            yield line, f"imports {name}: only {', '.join(patterns)} may"


def _length(module: Module) -> Iterator[tuple[int, str]]:
    lines = module.text.count("\n")
    if lines > LONGEST_FILE:
        yield lines, f"has {lines} lines, expected at most {LONGEST_FILE}: divide it by what it is about"


def _docstring(module: Module) -> Iterator[tuple[int, str]]:
    if not ast.get_docstring(module.tree):
        yield 1, "has no docstring: open with one sentence on what the module is for"


def _prints(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno, "prints: use rich's console in the command line, structlog elsewhere"


RULES: tuple[Callable[[Module], Iterator[tuple[int, str]]], ...] = (_rooms, _fences, _length, _docstring, _prints)
