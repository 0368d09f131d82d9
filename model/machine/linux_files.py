"""Small text files of /sys and /proc: read where they are there, and taken apart."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """A small file's text, or "" where the kernel or the copied tree does not have it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """A file that holds one whole number; None where it is not there or holds something else, such as "max"."""
    text = read_text(path)
    return int(text) if text.lstrip("-").isdecimal() else None


def chosen(text: str) -> str:
    """The bracketed word of a choice such as "always [madvise] never"."""
    return next((word[1:-1] for word in text.split() if word.startswith("[")), "unknown")


def labelled_lines(text: str) -> dict[str, str]:
    """Lines of the form "Label: value"; of labels that stand twice, the first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        label, separator, value = line.partition(":")
        if separator:
            found.setdefault(label.strip(), value.strip())
    return found


def meminfo_bytes(text: str) -> dict[str, int]:
    """Fields of a meminfo file in bytes; a node's lines begin with "Node 0 ", the machine's do not."""
    fields: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            fields[name.split()[-1]] = int(words[0]) * 1024
    return fields
