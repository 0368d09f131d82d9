"""Which processor the machine has: that decides what its firmware can be set to, and how fast its cores are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from numoe.model.machine.linux_files import labelled_lines, read_text

Instructions = Literal["avx512vnni", "avx512", "avxvnni", "avx2", ""]
# By the names of kernels/cpu/instruction_sets.py, the best first, the flags of /proc/cpuinfo that tell them apart.
NEEDED_FLAGS: Mapping[Instructions, frozenset[str]] = MappingProxyType(
    {
        "avx512vnni": frozenset({"avx512f", "avx512bw", "avx512_vnni"}),
        "avx512": frozenset({"avx512f", "avx512bw"}),
        "avxvnni": frozenset({"avx2", "avx_vnni"}),
        "avx2": frozenset({"avx2"}),
    }
)


@dataclass(frozen=True, slots=True)
class Processor:
    """What /proc/cpuinfo says of the first CPU."""

    name: str = ""
    vendor: str = ""  # GenuineIntel, AuthenticAMD
    family: int = 0
    model: int = 0
    instructions: Instructions = ""  # the best of those that kernels are compiled for; "": not known
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
        instructions=next((name for name, needed in NEEDED_FLAGS.items() if needed <= set(flags)), ""),
        virtual="hypervisor" in flags,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
