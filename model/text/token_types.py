"""What a token is for, by its file's types."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

# The tokens of SentencePiece for single bytes, of which it spells what no other token can.
BYTE_TEXTS: Mapping[str, int] = MappingProxyType({f"<0x{byte:02X}>": byte for byte in range(256)})


class TokenType(IntEnum):
    """What a token is for, as the file's tokenizer.ggml.token_type numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # found in text only where the caller allows it; never shown
    USER_DEFINED = 4  # found in text before all else; shown as it is written
    UNUSED = 5
    BYTE = 6
