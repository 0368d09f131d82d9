"""Programs of other projects that tests run where they are installed."""

from __future__ import annotations

import os
import shutil

import pytest


def find_program(kind: str, *names: str) -> str:
    """The path of the first of these that is installed; without one the test is skipped, or fails where KIND=required.

    `make KIND`, in lower case, installs it.
    """
    found = next((path for name in names if (path := shutil.which(name))), "")
    if not found:
        lack(kind, f"there is no {names[0]}: make {kind.lower()} installs one")
    return found


def lack(kind: str, what: str) -> None:
    """Skips the test, or fails it where KIND=required."""
    if os.environ.get(kind) == "required":
        pytest.fail(what)
    pytest.skip(what)
