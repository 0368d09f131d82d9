"""Conversations in tests, from turns to token ids."""

from __future__ import annotations

from collections.abc import Sequence

from numoe.coordinator.api.conversation import Conversation, Turn
from numoe.coordinator.api.encoding import Encoder
from numoe.coordinator.api.prompts import encode_rendered, render_conversation
from numoe.model.chat.formats import PLAIN
from numoe.model.text.chat_template import ChatTemplate


def encode_turns(encoder: Encoder, template: ChatTemplate, turns: Sequence[Turn]) -> list[int]:
    """Token ids of a conversation without tools."""
    return encode_rendered(encoder, render_conversation(encoder, template, PLAIN, Conversation(turns)))
