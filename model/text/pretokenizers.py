r"""How a text is cut into words before byte-pair encoding, by the name that a GGUF file gives in tokenizer.ggml.pre.

Patterns are applied one after the other: each cuts the pieces left by the one before at its matches and keeps both
the matches and what lies between. Source: src/llama-vocab.cpp of llama.cpp, whose token ids are the yardstick.

*Rejected*: the patterns of the models' own tokenizer.json where they differ. Those say `(?i:'s|'t|...)`, which takes
the long s (U+017F) for an s; llama.cpp spells the cases out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from numoe.protos.errors import UnsupportedModel

ANY_CASE_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LLAMA3 = ANY_CASE_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = ANY_CASE_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
QWEN35 = (
    ANY_CASE_CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Pretokenizer:
    """How a text is cut into words, and what else the name implies."""

    patterns: tuple[str, ...]
    whole_words: bool = False  # a word that is a token as it stands is not built up from merges
    add_bos: bool = False  # unless tokenizer.ggml.add_bos_token says otherwise


_DEFAULT = Pretokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_GROUPS: tuple[tuple[Pretokenizer, str], ...] = (
    (_DEFAULT, "default"),
    (Pretokenizer((GPT2,)), "gpt-2 phi-2 mpt olmo jais trillion gigachat mellum exaone4 a.x-4.0 granite-docling"),
    (Pretokenizer((r"\p{N}", GPT2)), "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    (Pretokenizer((QWEN2,)), "qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan solar-open grok-2 kormo"),
    (Pretokenizer((QWEN35,)), "qwen35"),
    (Pretokenizer((LLAMA3,)), "dbrx smaug-bpe glm4 chatglm-bpe"),
    (
        Pretokenizer((LLAMA3,), whole_words=True, add_bos=True),
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    ),
)
PRETOKENIZERS: Mapping[str, Pretokenizer] = MappingProxyType(
    {name: pretokenizer for pretokenizer, names in _GROUPS for name in names.split()}
)


def find_pretokenizer(name: str) -> Pretokenizer:
    """The pretokenizer called `name`; "" is the default. Raises UnsupportedModel."""
    found = PRETOKENIZERS.get(name or "default")
    if found is None:
        known = ", ".join(sorted(PRETOKENIZERS))
        raise UnsupportedModel(f"tokenizer.ggml.pre is {name!r}, this version knows {known}")
    return found
