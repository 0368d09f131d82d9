"""docs/log.md lists every event that the product logs, and no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from numoe.coordinator.engine.event_log import EventKind
from tests.log_lines import documented
from tests.project.architecture import Module, project_modules
from tests.project.rooms import TOP_FOLDERS

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def logged_names(module: Module) -> Iterator[str]:
    """The events that a module logs: of `_log.info("name", ...)` and of `tell("name", ...)`."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        by_log = isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
        by_name = isinstance(node.func, ast.Name) and node.func.id == "tell"
        if by_log or by_name:
            first = node.args[0]
            assert isinstance(first, ast.Constant), f"{module.path}:{node.lineno} logs an event without a fixed name"
            yield str(first.value)


def test_the_document_lists_what_is_logged() -> None:
    modules = [one for one in project_modules(ROOT) if one.path.split("/")[0] in TOP_FOLDERS]
    logged = {name for module in modules for name in logged_names(module)}
    assert len(logged) > 10
    assert logged.isdisjoint(EventKind), "changes of life are noted in the EventLog, which logs them"
    assert logged | set(EventKind) == set(documented())
