"""Hides control tokens' texts in what a client wrote while the model's template runs.

Private-use characters around a random name stand for a control token's text: templates trim, split and search
messages, so the stand-in must be neither blank nor text that one might look for.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from numoe.coordinator.api.encoding import Encoder
from numoe.model.text.part import Part

_OPEN, _CLOSE = "\ue000", "\ue001"


class Disguise:
    """The stand-ins of one conversation."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._name = secrets.token_hex(8)
        self._hidden: list[str] = []
        self.end = f"{_OPEN}{self._name}:end{_CLOSE}"  # put where a text is to be cut off

    def hide(self, text: str) -> str:
        """A text with stand-ins for the control tokens in it."""
        return "".join(map(self._hide, self._encoder.pieces(text)))

    def hide_data(self, data: Any) -> Any:
        """Plain data with stand-ins in all of its texts, names too."""
        if isinstance(data, str):
            return self.hide(data)
        if isinstance(data, Mapping):
            return {self._hide(str(name)): self.hide_data(value) for name, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.hide_data(value) for value in data]
        return data

    def uncover(self, rendered: str) -> list[Part]:
        """A rendered text with the hidden ones in it, as what they are: text."""
        pieces = re.split(f"{_OPEN}{self._name}:([0-9]+){_CLOSE}", rendered)
        # Odd ones are the numbers of stand-ins.
        parts = [
            Part(self._hidden[int(piece)], False) if n % 2 else Part(piece, True) for n, piece in enumerate(pieces)
        ]
        return [part for part in parts if part.text]

    def _hide(self, piece: str) -> str:
        texts = self._encoder.tokenizer.control_texts(piece)
        if not texts:
            return piece
        pattern = "|".join(re.escape(control) for control in sorted(texts, key=len, reverse=True))
        return re.sub(pattern, self._stand_in, piece)

    def _stand_in(self, match: re.Match[str]) -> str:
        self._hidden.append(match.group())
        return f"{_OPEN}{self._name}:{len(self._hidden) - 1}{_CLOSE}"
