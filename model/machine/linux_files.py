"""Reads small text files of /sys and /proc, which may be missing, and takes them apart."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a small file, "" where the kernel or the copied tree does not have it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """The whole number that a file holds; None where the file is missing or holds something else, such as "max"."""
    text = read_text(path)
    return int(text) if text.lstrip("-").isdecimal() else None


def chosen(text: str) -> str:
    """The bracketed word of a choice such as "always [madvise] never"."""
    return next((word[1:-1] for word in text.split() if word.startswith("[")), "unknown")


def labelled_lines(text: str) -> dict[str, str]:
    """Values by label, of lines of the form "Label: value"; the first counts if a label stands twice."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        label, separator, value = line.partition(":")
        if separator:
            found.setdefault(label.strip(), value.strip())
    return found


def meminfo_bytes(text: str) -> dict[str, int]:
    """Fields of a meminfo file, in bytes; a node's lines begin with "Node 0 ", the machine's do not."""
    fields: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            fields[name.split()[-1]] = int(words[0]) * 1024
    return fields
