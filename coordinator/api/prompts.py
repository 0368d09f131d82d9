"""From what a client wrote to the token ids a prompt consists of.

Guarantees: text from a client never becomes a control token unless the client asked for that; in a conversation only
the model's own template writes them. *Rejected*: encoding the rendered conversation as it is, as most servers do: a
quoted "<|im_end|>" in a message then ends the turn and lets its author speak as the system.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from numoe.coordinator.api.encoding import Checkpoint, Encoder, never_stop
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.part import Part
from numoe.model.text.tokenizer import Detokenizer, Tokenizer

# Private-use characters around a random name stand for a control token's text while the template runs: templates
# trim, split and search messages, so the stand-in must be neither blank nor text that one might look for.
_OPEN, _CLOSE = "\ue000", "\ue001"
DECODED_AT_ONCE = 512  # ids, in half a millisecond of Python, which holds the GIL


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


def encode_text(encoder: Encoder, text: str, *, special: bool = False, bos: bool = True) -> list[int]:
    """Token ids of a text; with `bos`, led by the beginning-of-text token where the model wants one."""
    token_ids = encoder.encode(text, special=special)
    return _lead(encoder.tokenizer, token_ids) if bos else token_ids


def encode_conversation(encoder: Encoder, template: ChatTemplate, turns: Sequence[Turn]) -> list[int]:
    """Token ids of a conversation that ends where the assistant is to answer."""
    disguise = _Disguise(encoder)
    messages = [{"role": disguise.hide(turn.role), "content": disguise.hide(turn.content)} for turn in turns]
    return _lead(encoder.tokenizer, disguise.encode(template.render(messages)))


def decode(tokenizer: Tokenizer, token_ids: Sequence[int], checkpoint: Checkpoint = never_stop) -> str:
    """The text of some tokens; control tokens give nothing, bytes that are no UTF-8 give U+FFFD."""
    detokenizer = Detokenizer(tokenizer)
    text: list[str] = []
    for start in range(0, len(token_ids), DECODED_AT_ONCE):
        checkpoint()
        text += [detokenizer.push(token_id) for token_id in token_ids[start : start + DECODED_AT_ONCE]]
    return "".join([*text, detokenizer.finish()])


def _lead(tokenizer: Tokenizer, token_ids: list[int]) -> list[int]:
    if not tokenizer.add_bos or tokenizer.bos_id is None or token_ids[:1] == [tokenizer.bos_id]:
        return token_ids
    return [tokenizer.bos_id, *token_ids]


class _Disguise:
    """Hides control tokens' texts in messages from the template's output, and encodes that as plain text again."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._tokenizer = encoder.tokenizer
        self._name = secrets.token_hex(8)
        self._hidden: list[str] = []

    def hide(self, text: str) -> str:
        return "".join(map(self._hide, self._encoder.pieces(text)))

    def encode(self, rendered: str) -> list[int]:
        pieces = re.split(f"{_OPEN}{self._name}:([0-9]+){_CLOSE}", rendered)
        # Odd ones are the numbers of stand-ins.
        parts = [
            Part(self._hidden[int(piece)], False) if n % 2 else Part(piece, True) for n, piece in enumerate(pieces)
        ]
        return self._encoder.encode_parts([part for part in parts if part.text])

    def _hide(self, piece: str) -> str:
        texts = self._tokenizer.control_texts(piece)
        if not texts:
            return piece
        pattern = "|".join(re.escape(control) for control in sorted(texts, key=len, reverse=True))
        return re.sub(pattern, self._stand_in, piece)

    def _stand_in(self, match: re.Match[str]) -> str:
        self._hidden.append(match.group())
        return f"{_OPEN}{self._name}:{len(self._hidden) - 1}{_CLOSE}"
