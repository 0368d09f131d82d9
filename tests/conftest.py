"""Fixtures that several folders of tests share."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.keeper.running import Running
from tests.machines import Machine, write_machine
from tests.project.rooms import room_of_path

pytest_plugins = ["tests.hung"]

# No test has a limit of time that a machine with other work to do may miss.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

LONGEST = Path(__file__).parent / "deploy/container/test_container.py"  # minutes on one core, others beside it
RECORDED = Path(__file__).parent / "model/machine/fixtures/topologies.tar.xz"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test with its room: pytest -m "room(name='model/gguf')"; puts those that take longest first."""
    items.sort(key=lambda item: item.path != LONGEST)
    for item in items:
        if room := room_of_path(item.path.relative_to(item.config.rootpath).as_posix()):
            item.add_marker(pytest.mark.room(name=room))


@pytest.fixture(scope="session")
def recorded_machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one-node, two-sockets, four-nodes, memory-less, cpu-less: /sys and /proc as Linux 6.1 showed them.

    two-sockets has 2 nodes of 4 cores with 2 hardware threads each; the others have one thread per core.
    """
    root = tmp_path_factory.mktemp("recorded_machines")
    with tarfile.open(RECORDED) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                (root / member.name).parent.mkdir(parents=True, exist_ok=True)
                (root / member.name).write_bytes(content.read())
    return root


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A keeper, and the process that it ends with."""
    one = Running(tmp_path / "socket", 0.0)
    yield one
    one.close()


@pytest.fixture(scope="session")
def described_machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Machine], Path]:
    """Gives the folder of a described machine, written once, to read only."""
    written: dict[Machine, Path] = {}

    def folder(machine: Machine) -> Path:
        if machine not in written:
            written[machine] = write_machine(tmp_path_factory.mktemp("described_machine"), machine)
        return written[machine]

    return folder
