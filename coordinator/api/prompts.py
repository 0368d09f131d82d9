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

from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.tokenizer import Detokenizer, Tokenizer

# Private-use characters around a random name stand for a control token's text while the template runs: templates
# trim, split and search messages, so the stand-in must be neither blank nor text that one might look for.
_OPEN, _CLOSE = "\ue000", "\ue001"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


def encode_text(tokenizer: Tokenizer, text: str, *, special: bool = False, bos: bool = True) -> list[int]:
    """Token ids of a text; with `bos`, led by the beginning-of-text token where the model wants one."""
    return _lead(tokenizer, tokenizer.encode(text, special=special)) if bos else tokenizer.encode(text, special=special)


def encode_conversation(tokenizer: Tokenizer, template: ChatTemplate, turns: Sequence[Turn]) -> list[int]:
    """Token ids of a conversation that ends where the assistant is to answer."""
    disguise = _Disguise(tokenizer)
    messages = [{"role": disguise.hide(turn.role), "content": disguise.hide(turn.content)} for turn in turns]
    return _lead(tokenizer, disguise.encode(template.render(messages)))


def decode(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The text of some tokens; control tokens give nothing, bytes that are no UTF-8 give U+FFFD."""
    detokenizer = Detokenizer(tokenizer)
    return "".join([*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.finish()])


def _lead(tokenizer: Tokenizer, token_ids: list[int]) -> list[int]:
    if not tokenizer.add_bos or tokenizer.bos_id is None or token_ids[:1] == [tokenizer.bos_id]:
        return token_ids
    return [tokenizer.bos_id, *token_ids]


class _Disguise:
    """Hides control tokens' texts in messages from the template's output, and encodes that as plain text again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._name = secrets.token_hex(8)
        self._hidden: list[str] = []

    def hide(self, text: str) -> str:
        texts = self._control_texts(text)
        if not texts:
            return text
        pattern = "|".join(re.escape(control) for control in sorted(texts, key=len, reverse=True))
        return re.sub(pattern, self._stand_in, text)

    def encode(self, rendered: str) -> list[int]:
        token_ids: list[int] = []
        pieces = re.split(f"{_OPEN}{self._name}:([0-9]+){_CLOSE}", rendered)
        for index, piece in enumerate(pieces):  # odd ones are the numbers of stand-ins
            if index % 2:
                token_ids += self._tokenizer.encode(self._hidden[int(piece)], special=False)
            elif piece:
                token_ids += self._tokenizer.encode(piece, special=True)
        return token_ids

    def _stand_in(self, match: re.Match[str]) -> str:
        self._hidden.append(match.group())
        return f"{_OPEN}{self._name}:{len(self._hidden) - 1}{_CLOSE}"

    def _control_texts(self, text: str) -> set[str]:
        """The control tokens that the tokenizer would find in the text, as they are written."""
        found = {token_id for token_id in self._tokenizer.encode(text) if not self._tokenizer.token_bytes(token_id)}
        return {self._tokenizer.token_bytes(token_id, control=True).decode() for token_id in found} - {""}
