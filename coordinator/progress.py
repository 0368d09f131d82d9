"""How loading tells how far it is."""

from __future__ import annotations

from typing import Protocol


class LoadProgress(Protocol):
    """Receives the progress of loading.

    It is called often and from any thread; an exception that it raises ends the loading, and with it every worker.
    """

    def __call__(self, phase: str, done: int, total: int) -> None:
        """`phase` is for people, e.g. "loading"; `done` of `total` are bytes or steps; total 0 where nobody knows."""
