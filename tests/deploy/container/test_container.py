"""The image of deploy/container/, as it is built and as it serves: the same text, by kernels that came with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from numoe.kernels.cpu.instruction_sets import runnable
from tests.deploy.container.image import DOCKERFILE, Image, build_image, remove_image
from tests.programs import lack
from tests.system.serve_process import NUMOE, lives, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # 200 s on two cores that do nothing else

USER = 10001
DEMO_FORMATS = "F16 F32 Q8_0"  # of the demo model and of the KV cache
PROMPT = "The three primary colours are"
SITE = "opt/numoe/lib/python3*/site-packages"
SERVICE = ["/opt/numoe/bin/python", "/opt/numoe/bin/numoe"]
COMPILERS = {"cc", "gcc", "c++", "g++", "clang", "ld", "as", "make", "cmake", "protoc"}


@dataclass(frozen=True, slots=True)
class Served:
    """A container that has served, and what was seen of it."""

    cache: Path  # its volume
    users: set[int]  # of its processes
    health: subprocess.CompletedProcess[str]
    text: str
    status: int
    left: list[psutil.Process]
    unhealthy: subprocess.CompletedProcess[str]  # asked after its end


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """With kernels for the best instruction set that this machine has, and what the demo model needs of them."""
    best = next((one.name for one in runnable() if one.first_cpu is not None), None)
    if best is None:
        lack("CONTAINER", "no kernels can be compiled ahead of time for this CPU")
    folder = tmp_path_factory.mktemp("image")
    try:
        yield build_image(folder, f"KERNELS={best}", f"FORMATS={DEMO_FORMATS}")
    finally:
        if (folder / "storage").exists():
            remove_image(folder)


@pytest.fixture(scope="module")
def served(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Started as the image says, asked for its health and a text, and told to stop as the image says."""
    cache = tmp_path_factory.mktemp("cache")
    os.chown(cache, USER, USER)
    options = [
        f"--volume={cache}:/var/cache/numoe",
        "--env=NUMOE_ADDRESS=127.0.0.1:0",
        "--env=NUMOE_HTTP_ADDRESS=127.0.0.1:0",
    ]
    command = image.command(*image.config["Entrypoint"], *image.config["Cmd"], options=options)
    with running(command, tmp_path_factory.mktemp("log") / "serve.log") as (process, address, http):
        inside = psutil.Process(process.pid).children(recursive=True)
        service = next(one for one in inside if one.cmdline()[:2] == SERVICE)
        belongings = [service, *service.children(recursive=True)]
        users = {user for one in belongings for user in one.uids()}
        health = check_health(image, http)
        text = generate(address)
        service.send_signal(signal.Signals[image.config["StopSignal"]])
        status = process.wait(120)
    left = [one for one in belongings if lives(one)]
    return Served(cache, users, health, text, status, left, check_health(image, http))


@contextmanager
def running(command: list[str], log: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A command that serves: its process, and the addresses that it tells."""
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            ready = re.search(r"READY grpc=(\S+) .*ops=http://([^/]+)/", process.stdout.readline())
            assert ready, log.read_text()
            yield process, ready[1], ready[2]
        finally:
            for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                one.kill()


def generate(address: str) -> str:
    """What a client outside of the container is told."""
    command = [NUMOE, "generate", PROMPT, "--max-tokens", "24", "--address", address]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check_health(image: Image, http: str) -> subprocess.CompletedProcess[str]:
    kind, *command = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    asked = image.command(*command, options=[f"--env=NUMOE_HTTP_ADDRESS={http}"])
    return subprocess.run(asked, capture_output=True, text=True, check=False)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_says_what_it_is_and_how_it_is_run(image: Image) -> None:
    config = image.config
    assert config["User"] == f"{USER}:{USER}"
    assert config["Labels"]["org.opencontainers.image.title"] == "numoe"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert set(config["ExposedPorts"]) == {"50151/tcp", "50152/tcp"}
    assert set(config["Volumes"]) == {"/models", "/var/cache/numoe"}
    assert config["StopSignal"] == "SIGTERM"
    assert (config["Entrypoint"], config["Cmd"]) == (["numoe"], ["serve"])


def test_it_holds_what_is_locked_for_serving_and_no_compiler(image: Image) -> None:
    programs = {path.name for path in image.root.glob("usr/bin/*")} | {
        path.name for path in image.root.glob("opt/*/bin/*")
    }
    assert "python3" in programs
    assert programs & COMPILERS == set()
    lock = (DOCKERFILE.parent / "serve.lock").read_text()
    locked = set(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    found = {tuple(path.name.removesuffix(".dist-info").split("-")) for path in image.root.glob(f"{SITE}/*.dist-info")}
    names = {(name.lower().replace("-", "_"), version) for name, version in locked}
    assert {(name, version) for name, version in found if name == "numoe"}
    assert {(name.lower(), version) for name, version in found if name != "numoe"} <= names


def test_its_user_can_write_only_what_is_his(image: Image) -> None:
    looked = image.command("find", "/opt", "/usr", "/etc", "/models", "-writable", "-not", "-type", "l")
    found = subprocess.run(looked, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == ["/models"]


def test_it_serves_as_a_user_without_rights(served: Served) -> None:
    assert served.users == {USER}


def test_it_is_healthy_while_it_serves_and_not_afterwards(served: Served) -> None:
    assert (served.health.returncode, served.health.stdout) == (0, '{"state":"serving"}'), served.health.stderr
    assert served.unhealthy.returncode == 1, served.unhealthy.stdout


def test_it_gives_the_text_that_a_service_outside_gives(served: Served, tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--address", "127.0.0.1:0") as outside:
        assert generate(outside.address) == served.text
    assert len(served.text.split()) > 5


def test_it_compiles_no_kernel_that_came_with_it(image: Image, served: Served) -> None:
    [came_with] = image.root.glob(f"{SITE}/numoe/kernels/ahead/*")
    [taken] = served.cache.glob("numoe/kernels/*")
    assert taken.name == came_with.name
    assert len(files_below(came_with)) > 200
    assert files_below(taken) == files_below(came_with)


def test_the_signal_of_its_end_ends_it_and_all_that_belongs_to_it(served: Served) -> None:
    assert served.status == 0
    assert served.left == []
