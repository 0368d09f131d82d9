"""A small but real byte-level BPE vocabulary for the GGUF files that tests write."""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGUFWriter, TokenType

# Common English, as BPE training would find it: each pair joins two tokens that already exist; the order is the rank.
# fmt: off
MERGES = (
    "Ġ t", "h e", "Ġt he", "Ġ a", "i n", "r e", "o n", "e r", "Ġ s", "Ġ w", "a t", "n d", "Ġ c", "o u", "i s", "e n",
    "Ġ o", "o r", "in g", "Ġ b", "e s", "i t", "Ġo f", "Ġa nd", "Ġ p", "Ġt o", "a n", "a l", "a r", "Ġ in", "Ġ f",
    "e d", "l l", "Ġ d", "Ġ h", "Ġ m", "o m", "l e", "i c", "Ġ n", "Ġ is", "h at", "Ġt hat", "e l", "Ġ l", "Ġb e",
    "Ġ re", "Ġ g", "v er", "s t", "Ġ e", "Ġ 1", "H e", "He ll", "Hell o",
)
# fmt: on
USER_DEFINED = ("<think>", "</think>")
END_OF_TEXT, IM_START, IM_END = CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SMALLEST_VOCABULARY = 256 + len(MERGES) + len(CONTROL) + len(USER_DEFINED)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    tokens: tuple[str, ...]  # in GPT-2's printable spelling of bytes
    types: tuple[TokenType, ...]
    merges: tuple[str, ...]


def byte_spellings() -> dict[int, str]:
    """GPT-2's printable character for every byte: itself where it is printable, else 256 + n in order of the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(rest)}


def tiny_vocabulary(size: int) -> Vocabulary:
    """Return 256 bytes, the merges, three control tokens, two user-defined ones, and unused ones up to `size`."""
    if size < SMALLEST_VOCABULARY:
        raise ValueError(f"the tiny vocabulary has {SMALLEST_VOCABULARY} tokens at least, not {size}")
    normal = [*byte_spellings().values(), *(merge.replace(" ", "") for merge in MERGES)]
    unused = [f"[PAD{index}]" for index in range(SMALLEST_VOCABULARY, size)]
    types = (
        [TokenType.NORMAL] * len(normal)
        + [TokenType.CONTROL] * len(CONTROL)
        + [TokenType.USER_DEFINED] * len(USER_DEFINED)
        + [TokenType.UNUSED] * len(unused)
    )
    return Vocabulary((*normal, *CONTROL, *USER_DEFINED, *unused), tuple(types), MERGES)


def write_vocabulary(writer: GGUFWriter, size: int) -> None:
    """Add the tokenizer's keys as the Qwen3 converter does."""
    vocabulary = tiny_vocabulary(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_eos_token_id(vocabulary.tokens.index(IM_END))
    writer.add_bos_token_id(vocabulary.tokens.index(END_OF_TEXT))
    writer.add_pad_token_id(vocabulary.tokens.index(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
