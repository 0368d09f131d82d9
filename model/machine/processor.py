"""Which processor the machine has: that decides what its firmware can be set to, and how fast its cores are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numoe.model.machine.linux_files import labelled_lines, read_text


@dataclass(frozen=True, slots=True)
class Processor:
    """What /proc/cpuinfo says of the first CPU."""

    name: str = ""
    vendor: str = ""  # GenuineIntel, AuthenticAMD
    family: int = 0
    model: int = 0
    vnni: bool = False  # AVX-512 VNNI: products of bytes and their sum in one instruction
    virtual: bool = False  # a hypervisor stands between: its nodes and cores need not be the machine's


def read_processor(root: Path) -> Processor:
    """Read /proc/cpuinfo below `root`; what it does not say stays empty."""
    lines = labelled_lines(read_text(root / "proc/cpuinfo").partition("\n\n")[0])
    flags = lines.get("flags", "").split()
    return Processor(
        name=" ".join(lines.get("model name", "").split()),
        vendor=lines.get("vendor_id", ""),
        family=_number(lines.get("cpu family", "")),
        model=_number(lines.get("model", "")),
        vnni="avx512_vnni" in flags,
        virtual="hypervisor" in flags,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
