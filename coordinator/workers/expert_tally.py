"""Keeps count of the experts that were chosen while serving, and a file of it up to date.

Every worker counts the same, and begins at zero with its group. What a lost group counted since it was last looked at
is lost with it. The file is written by a thread of its own: no step waits for a disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.expert_stats import ExpertStats, load_stats, no_stats, save_stats

LOOK_SECONDS = 1.0  # copying the counts of 94 layers of 128 experts takes 20 us
SAVE_SECONDS = 60.0

_log = structlog.get_logger()


class ExpertTally:
    """Used by the one thread that runs steps, but for `counts`; without a path it counts all the same."""

    def __init__(self, spec: ModelSpec, path: Path | None) -> None:
        self._path = path if spec.routed else None
        known = self._path is not None and self._path.exists()
        before = load_stats(self._path, spec) if known and self._path else no_stats(spec)
        self._nothing = no_stats(spec)
        # [L, E] of the groups before, and of this one; replaced as one, so that no thread counts a group twice.
        self._seen = np.array(before.counts, np.int64), np.zeros((spec.layers, spec.experts), np.int64)
        self._looked = self._saved = time.monotonic()
        self._saving: threading.Thread | None = None

    @property
    def counts(self) -> NDArray[np.int64]:  # [L, E]
        """All that was counted, as of the last look; by any thread."""
        before, now = self._seen
        return before + now

    @property
    def stats(self) -> ExpertStats:
        """The same, to be kept."""
        return self._nothing.plus(self.counts.tolist())

    def after_step(self, read: Callable[[], NDArray[np.int64]]) -> None:
        """Look now and then: `read` copies a worker's counts [L, E], and no step runs now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._seen = self._seen[0], read()
            if self._path is not None and now - self._saved >= SAVE_SECONDS:
                self._saved = now
                self._save_beside()

    def end_group(self, hits: NDArray[np.int64] | None) -> None:
        """The workers are about to end; `hits` as they left them, None if they ended within a step."""
        before, now = self._seen
        self._seen = before + (now if hits is None else hits), np.zeros_like(now)

    def close(self) -> None:
        """Save for the last time."""
        if self._saving is not None:
            self._saving.join()
        if self._path is not None:
            self._save(self._path, self.stats)

    def _save_beside(self) -> None:
        assert self._path is not None
        if self._saving is None or not self._saving.is_alive():
            self._saving = threading.Thread(target=self._save, args=(self._path, self.stats), name="expert-stats")
            self._saving.start()

    @staticmethod
    def _save(path: Path, stats: ExpertStats) -> None:
        try:
            save_stats(path, stats)
        except OSError as error:
            _log.warning("expert_stats_not_saved", path=str(path), error=str(error))
