"""What the tests of this folder share: one service and the Prometheus that watches it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.watched import Watched, watched_service


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_service(tmp_path_factory.mktemp("watched")) as watched:
        yield watched
