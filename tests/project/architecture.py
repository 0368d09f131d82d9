"""The project's rules that a machine can check: who imports whom, how long files are, what no file says."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.project.rooms import ROOMS, TOP_FOLDERS, room_of_name, rooms_below

LONGEST_FILE = 400  # lines; past that a file is about two things
MEDIAN_FILE = 150
MOST_FILES = 15  # of code in one folder; past that it is about two things

# The one module that may look across: it names the class that it starts in another process.
EXCEPTIONS = {("coordinator/workers/actors.py", "numoe.worker.running.actor.WorkerActor")}

# Libraries that only some files may import: patterns of those files.
GRPC_FILES = (
    "client/*.py",
    "coordinator/api/grpc/*.py",
    "coordinator/commands/asking/client.py",
    "coordinator/stages/*.py",
    "coordinator/cluster/certificates.py",
    "coordinator/measuring/load/grpc_target.py",
)
HTTP_FILES = ("coordinator/api/http/*.py",)
FENCES = {
    "ray": (
        "coordinator/workers/starting.py",
        "coordinator/cluster/*.py",
        "coordinator/stages/*.py",
        "coordinator/workers/actors.py",
        "coordinator/workers/expert_mover.py",
        "worker/running/actor.py",
    ),
    "numba": ("kernels/*.py",),
    "llvmlite": ("kernels/*.py",),
    "grpc": GRPC_FILES,
    "grpc_health": GRPC_FILES,
    "grpc_reflection": GRPC_FILES,
    "grpc_status": GRPC_FILES,
    "starlette": HTTP_FILES,
    "uvicorn": HTTP_FILES,
    "h11": (*HTTP_FILES, "coordinator/measuring/load/http_target.py"),
    "prometheus_client": HTTP_FILES,
    "llguidance": ("coordinator/constraints/guides.py",),
    "huggingface_hub": ("coordinator/hub/client.py",),
    "httpx2": ("coordinator/hub/client.py",),
    "opentelemetry": ("coordinator/process/tracing.py",),
    "cyclopts": ("coordinator/commands/*.py",),
    "rich": ("coordinator/commands/*.py",),
    "matplotlib": ("coordinator/commands/measuring/plot.py", "coordinator/commands/measuring/load/picture.py"),
}

PYTHON_FOLDERS = (*TOP_FOLDERS, "tests", "bench", "deploy")
PAGE_SUFFIXES = {".html", ".js", ".css", ".svg"}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".lock", ".proto", ".txt", ".sh", *PAGE_SUFFIXES}
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
    return sorted([*found, *_crowds(modules), *_circles(modules)])


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


def _circles(modules: Iterable[Module]) -> Iterator[str]:
    paths = {"numoe." + module.path.removesuffix(".py").replace("/", "."): module.path for module in modules}
    graph = TopologicalSorter[str]()
    for module in modules:
        for _, name in module.imports():
            if target := paths.get(name) or paths.get(name.rpartition(".")[0]):
                graph.add(module.path, target)
    try:
        graph.prepare()
    except CycleError as error:
        circle = error.args[1]
        yield f"{circle[0]}:1: imports itself, by way of {', '.join(circle[1:-1])}"


def _rooms(module: Module) -> Iterator[tuple[int, str]]:
    for line, name in module.imports():
        if name.startswith("."):
            yield line, f"imports {name}: say the full name, numoe.{module.folder.replace('/', '.')}..."
    if module.folder.split("/")[0] not in TOP_FOLDERS:  # tests and benches look at everything
        return
    docstring_only = module.path.endswith("/__init__.py") and len(module.tree.body) <= 1
    if module.folder not in ROOMS:
        if not docstring_only:
            yield 1, f"lies in {module.folder}, which is no room: put it into one, or name it in tests/project/rooms.py"
        return
    allowed = rooms_below(module.folder)
    for line, name in module.imports():
        top = name.split(".")[0]
        if top in (*TOP_FOLDERS, "tests", "bench"):
            yield line, f"imports {name}: the product knows its parts as numoe.*, and no tests"
        elif top == "numoe" and room_of_name(name) not in allowed and (module.path, name) not in EXCEPTIONS:
            yield line, f"imports {name}: {module.folder} may import only {', '.join(sorted(allowed))}"


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
