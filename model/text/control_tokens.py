"""Which tokens are control tokens though their file says otherwise.

Files in use type <|im_end|> as normal or user-defined, or have no types at all: then anybody's text could end a turn
and speak as the system, and an answer would not end. So control is also what an id names as beginning or end, what is
known to end an answer, what is written like a control token, and what the chat template writes around a greeting.

*Not guaranteed*: that every marker is known. One that the template writes only for tools or thoughts keeps its type,
since the person who asks is to see it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from numoe.model.text.token_types import TokenType

# Texts that end an answer in one model family or another. A file names one end token by id, yet many models end with
# another as well: Qwen3 files name <|im_end|>, and the model also ends with <|endoftext|>. llama.cpp does the same.
END_TEXTS = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<eos>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",  # noqa: RUF001 (DeepSeek's own spelling)
    }
)
BEGIN_TEXTS = frozenset({"<s>", "<bos>", "[BOS]", "<start_of_turn>", "[INST]", "[/INST]"})
# llama.cpp's converter takes what is written so for control tokens, whatever the model's own files say.
WRITTEN_LIKE_CONTROL = ("<|", "|>"), ("<｜", "｜>")  # noqa: RUF001 (DeepSeek's own spelling)
BRACKETS = ("<", ">"), ("[", "]")
# Whatever looks like a marker begins and ends so, and none in use has half as many characters.
MARKER_BEGINNINGS = ("<", "[", "_")
MARKER_CHARACTERS = 64
# What templates write around answers that a person is to see.
SHOWN_TEXTS = frozenset(
    f"<{slash}{name}>" for slash in ("", "/") for name in ("think", "thinking", "answer", "tool_call")
)

# Of tokens that text is searched for. Gemma has the most, 6,414 of 64,000 characters in all; 100,000 of 100 bytes took
# the tokenizer 29 s and 1 GB.
MOST_SPECIAL = 1 << 14
SPECIAL_CHARACTERS = 1 << 18  # of all together


def find_mistyped(
    texts: Sequence[str],
    types: Sequence[TokenType],
    merged: Collection[str],
    named: Collection[int],
    written: str,
) -> Iterator[int]:
    """The ids of tokens that are control tokens, but have another type.

    Args:
        texts: [V] of the tokens.
        types: [V] of the file.
        merged: texts that merges make of others: those are words, though they may look like a tag.
        named: ids that the file names as beginning or end.
        written: what the chat template writes around a greeting.
    """
    for token_id, (text, token_type) in enumerate(zip(texts, types, strict=True)):
        # A single character spells a byte, which no other token can write.
        if token_type is TokenType.CONTROL or len(text) < 2:
            continue
        if token_id in named or (text not in merged and _means_control(text, token_type, written)):
            yield token_id


def is_special(token_type: TokenType) -> bool:
    """Whether text is searched for such tokens."""
    return token_type in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)


def _means_control(text: str, token_type: TokenType, written: str) -> bool:
    if text in END_TEXTS or text in BEGIN_TEXTS:
        return True
    if not _enclosed(text, BRACKETS) or text in SHOWN_TEXTS:
        return False
    if token_type in (TokenType.NORMAL, TokenType.USER_DEFINED) and _enclosed(text, WRITTEN_LIKE_CONTROL):
        return True
    return text in written


def _enclosed(text: str, pairs: Sequence[tuple[str, str]]) -> bool:
    return any(text.startswith(opening) and text.endswith(closing) for opening, closing in pairs)
