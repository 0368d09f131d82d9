"""The image of deploy/container/, built without a registry of images: on a Debian that is made here, as root."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs import lack

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "deploy/container/Dockerfile"
BASE, IMAGE = "localhost/numoe-base", "localhost/numoe"
INCLUDED = "python3-venv,ca-certificates"
LEFT_OUT = ("doc", "man", "locale", "info")  # of /usr/share, as images of Debian do
FETCHING = ("index-url", "extra-index-url", "trusted-host", "cert", "proxy", "timeout")  # of pip's settings
CERTIFICATES = "/etc/ssl/certs"  # by which this machine knows its registry of packages


@dataclass(frozen=True, slots=True)
class Image:
    """One that was built, and a container of it."""

    folder: Path
    config: dict[str, Any]
    container: str
    root: Path  # the container's

    def command(self, *command: str, options: Iterable[str] = ()) -> list[str]:
        """What runs a command in the container, as its user, with the network of this machine."""
        return [*buildah(self.folder), "run", "--isolation", "chroot", *options, self.container, "--", *command]


def build_image(folder: Path, *arguments: str) -> Image:
    """Make the base, and of it the image with these build arguments, as NAME=VALUE; all of it lies in `folder`.

    Skips the test, or fails it where CONTAINER=required, if this machine cannot.
    """
    for name in ("buildah", "mmdebstrap", "apt-get"):
        if shutil.which(name) is None:
            lack("CONTAINER", f"there is no {name}: make container-tools installs what builds an image")
    if os.geteuid() != 0:
        lack("CONTAINER", "only root can build an image so")
    _make_base(folder)
    (folder / "pip.conf").write_text(_pip_settings())
    command = [
        "build",
        "--isolation",
        "chroot",
        "--format",
        "docker",
        "--quiet",
        "--tag",
        IMAGE,
        "--file",
        str(DOCKERFILE),
    ]
    command += ["--secret", f"id=pip,src={folder / 'pip.conf'}", "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    command += [word for one in (f"BASE={BASE}", *arguments) for word in ("--build-arg", one)]
    _output([*buildah(folder), *command, str(ROOT)])
    config = json.loads(_output([*buildah(folder), "inspect", "--type", "image", IMAGE]))["Docker"]["config"]
    container = _output([*buildah(folder), "from", IMAGE]).strip()
    return Image(folder, config, container, Path(_output([*buildah(folder), "mount", container]).strip()))


def remove_image(folder: Path) -> None:
    """Give back what it takes of the disk, some GB."""
    _output([*buildah(folder), "umount", "--all"])
    _output([*buildah(folder), "rm", "--all"])
    _output([*buildah(folder), "rmi", "--all", "--force"])
    shutil.rmtree(folder)


def buildah(folder: Path) -> list[str]:
    """The command, with a storage of its own that needs nothing of the kernel."""
    return ["buildah", "--root", f"{folder}/storage", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]


def _make_base(folder: Path) -> None:
    """Debian or Ubuntu as this machine has it, from where this machine's apt has it."""
    release = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    suite = release.get("VERSION_CODENAME", "").strip('"')
    told = _output(["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)"])
    sources = [line.split()[1] for line in told.splitlines() if line.split()[:1] == [suite]]
    if not sources:
        lack(
            "CONTAINER",
            f"apt knows no source of {suite or 'this system'}: the base of an image is made of Debian's packages",
        )
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={INCLUDED}", *options]
    (folder / "base").mkdir()
    made = subprocess.run(
        [*command, suite, str(folder / "base/root.tar"), sources[0]], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        lack("CONTAINER", f"Debian's packages cannot be had: {made.stderr[-2000:]}")
    (folder / "base/Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
    _output([*buildah(folder), "build", "--isolation", "chroot", "--quiet", "--tag", BASE, str(folder / "base")])
    (folder / "base/root.tar").unlink()


def _pip_settings() -> str:
    """Whence packages come, as pip is told on this machine, less folders of it; in the form of a file."""
    told: dict[str, str] = {}
    for line in _output([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if key in FETCHING and (section == ":env:" or key not in told):
            told[key] = " ".join(word for word in ast.literal_eval(value).split() if not word.startswith("file:"))
    return "\n".join(["[global]", *(f"{key} = {value}" for key, value in told.items() if value), ""])


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout
