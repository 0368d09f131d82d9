"""Chooses a model's files among those of a repository, as llama.cpp does.

Asked for QUANT: the first model, by path, that has it as a word in its path, with "-", "." or "/" behind it, in letters
of either case. Asked for none: Q4_K_M, else Q8_0, else the first. Files for vision, speculative decoding and quantising
are no models. A model that is split is all its parts or none. llama.cpp finds F16 in BF16 too; here it is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from numoe.coordinator.hub.names import HubName
from numoe.model.gguf.model_file import MOST_PARTS, PART_NAME
from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import harmless, one_line

USUAL = ("Q4_K_M", "Q8_0")
SHOWN = 20  # quantisations in a message
NO_MODELS = re.compile(r"mmproj|imatrix|mtp-|eagle3-|dflash-|dspark-", re.IGNORECASE)
QUANT = re.compile(
    r"(?<![A-Za-z0-9])((UD-)?(I?Q\d+(_[A-Z0-9]+)*|TQ\d_\d|BF16|F16|F32|MXFP4(_MOE)?|NVFP4))(?=[-./])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository."""

    path: str  # in the repository, with slashes
    bytes: int
    digest: str  # SHA-256 in hex of what is kept for itself, git's SHA-1 of other files; "": not told

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def choose_files(files: Iterable[HubFile], wanted: HubName, where: str) -> tuple[HubFile, ...]:
    """The files of the wanted model, the first part first.

    Raises SetupError where there is none, or not whole; `where` says whose files these are, for messages.
    """
    models = sorted((file for file in files if _is_model(file.path)), key=lambda file: file.path)
    if not models:
        raise SetupError(f"{where} has no GGUF file; look for a repository whose name ends with -GGUF")
    by_path = {file.path: file for file in models}
    return _with_parts(by_path, _first_file(models, wanted, where), where)


def quantisations(files: Iterable[HubFile]) -> str:
    """What may be asked for, for a message."""
    paths = sorted(file.path for file in files if _is_model(file.path))
    names = list(dict.fromkeys(_quantisation(path) for path in paths))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(one_line(name, 80) for name in names[:SHOWN]) + more


def _first_file(models: Sequence[HubFile], wanted: HubName, where: str) -> HubFile:
    if wanted.file:
        for file in models:
            if file.path.lower() == wanted.file.lower():
                return file
        close = [file.path for file in models if file.name.lower() == wanted.file.rpartition("/")[2].lower()]
        hint = f"did you mean {one_line(close[0], 120)}?" if close else f"it has {quantisations(models)}"
        raise SetupError(f"{where} has no file {one_line(wanted.file, 120)}: {hint}")
    for quant in (wanted.quant,) if wanted.quant else USUAL:
        pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quant)}(?=[-./])", re.IGNORECASE)
        for file in models:
            if pattern.search(file.path):
                return file
    if wanted.quant:
        raise SetupError(f"{where} has no {wanted.quant}: it has {quantisations(models)}")
    return models[0]


def _with_parts(files: Mapping[str, HubFile], first: HubFile, where: str) -> tuple[HubFile, ...]:
    """The file with the other parts of the model, whichever part it is."""
    part = PART_NAME.fullmatch(first.path)
    if part is None:
        return (_checked(first, where),)
    count = int(part["count"])
    if not 1 <= count <= MOST_PARTS:
        raise SetupError(f"{where}: {one_line(first.path)} is one of {count} parts, expected 1 to {MOST_PARTS}")
    paths = [f"{part['stem']}-{number:05d}-of-{part['count']}.gguf" for number in range(1, count + 1)]
    missing = [path for path in paths if path not in files]
    if missing:
        also = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SetupError(
            f"{where}: of {count} parts {one_line(missing[0])}{also} is missing; choose another model of it"
        )
    return tuple(_checked(files[path], where) for path in paths)


def _checked(file: HubFile, where: str) -> HubFile:
    """The file, whose path stays below a folder and can be shown."""
    parts = file.path.split("/")
    if harmless(file.path) != file.path or any(part in ("", ".", "..") for part in parts) or "\\" in file.path:
        _refuse(f"{where} names a file {one_line(file.path, 120)}, which leads out of its folder or hides signs")
    return file


def _is_model(path: str) -> bool:
    name = path.rpartition("/")[2]
    return path.lower().endswith(".gguf") and not NO_MODELS.search(name)


def _quantisation(path: str) -> str:
    found = QUANT.findall(path)
    return found[-1][0].upper() if found else path


def _refuse(problem: str) -> NoReturn:
    raise SetupError(f"{problem}: it is not fetched; choose another repository")
