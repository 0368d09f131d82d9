"""Text of files, models and clients, made fit for a terminal and for a line of a log.

The one rule: no character gets there that could move the cursor, change a window's title, break a line, or show text in
another order than it has. What only looks strange stays, such as what joins emoji and letters, and blanks of any width.
"""

from __future__ import annotations

from unicodedata import category

_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # Unicode's overrides of the order of text
_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, halves of surrogate pairs, separators of lines


def harmless(text: str, *, kept: str = "", instead: str = "") -> str:
    """`text` with `instead` for each character that could do harm, but for those in `kept`."""
    return "".join(c if c in kept or not (c in _DIRECTIONS or category(c) in _CATEGORIES) else instead for c in text)


def one_line(text: str, most: int = 400) -> str:
    """`text` as a part of a message: "?" for each character that could do harm, and at most so many from its ends."""
    text = text if len(text) <= most else f"{text[: most // 2]} ... {text[-(most // 2) :]}"
    return harmless(text, instead="?")
